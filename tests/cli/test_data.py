def test_data_that_can_be_named_is_listed(kdengine):
    assert "digits" in kdengine("data", "--json").json["data"]
    said = kdengine("data")
    assert said.code == 0
    assert "imagefolder:PATH" in said.out


def test_a_spec_is_loaded_and_described(kdengine):
    facts = kdengine("data", "digits@train=100", "--json").json
    assert (facts["train_images"], facts["test_images"], facts["num_classes"]) == (100, 359, 10)
    assert "train_images: 100" in kdengine("data", "digits@train=100").out


def test_unknown_data_is_told_with_the_nearest(kdengine):
    said = kdengine("data", "digist")
    assert (said.code, said.out) == (2, "")
    assert "'digits'" in said.err

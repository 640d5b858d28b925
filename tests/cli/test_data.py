from PIL import Image


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


def test_an_example_folder_is_written_and_can_be_used_as_it_is_said(kdengine, here):
    said = kdengine("data", "--example", "pictures", "--bad", "--json").json
    assert said == {"folder": "pictures", "files": 1798, "spec": "imagefolder:pictures@size=32@split=0.2@skip_bad=true"}
    images = []
    for file in (here / "pictures" / "seven").iterdir():
        with Image.open(file) as image:
            images.append(image)
    assert len({image.size for image in images}) == 5
    assert {image.mode for image in images} == {"RGB", "RGBA", "L"}
    refused = kdengine("data", said["spec"].removesuffix("@skip_bad=true"))
    assert refused.code == 2
    assert "pictures/three/damaged.png" in refused.err
    assert "add @skip_bad=true to the data" in refused.err
    left = kdengine("data", said["spec"], "--json")
    assert "Left out 1 of 1798 images" in left.err
    facts = left.json
    assert (facts["train_images"], facts["test_images"]) == (1438, 359)
    assert sorted(facts["classes"]) == sorted(path.name for path in (here / "pictures").iterdir())
    assert "Did you mean 'imagefolder:pictures@split=0.2'?" in kdengine("data", "pictures").err


def test_an_example_is_not_written_over_other_files(kdengine, here):
    (here / "notes.txt").touch()
    said = kdengine("data", "--example", here)
    assert (said.code, [path.name for path in here.iterdir()]) == (2, ["notes.txt"])
    assert "is not empty" in said.err
    said = kdengine("data", "--example", "notes.txt/below")
    assert (said.code, said.out) == (2, "")
    assert "Not a directory: 'notes.txt/below" in said.err

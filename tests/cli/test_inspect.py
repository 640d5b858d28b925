from kdengine.runs import source


def test_the_taps_of_a_network_and_their_shapes_are_listed(kdengine):
    facts = kdengine("inspect", "resnet8", "--json").json
    taps = {tap["name"]: tap for tap in facts["taps"]}
    assert facts["input_size"] == [3, 32, 32]
    assert taps["stage1"]["shape"] == [2, 16, 32, 32]
    assert taps["stage3"]["shape"] == [2, 64, 8, 8]
    assert taps["embedding"]["shape"] == [2, 64]
    assert taps["logits"]["shape"] == [2, 100]
    assert facts["classifier"] == "fc"
    assert "layer2.0.conv1" in {module["path"] for module in facts["modules"]}
    assert facts["parameters"] == 83_892


def test_people_see_the_same_names(kdengine):
    said = kdengine("inspect", "resnet8")
    assert said.code == 0
    assert "83,892 parameters" in said.out
    assert "stage3.pre" in said.out
    assert "[2, 64, 8, 8]" in said.out
    assert "layer2.0.conv1" in said.out
    assert "layer2.0.conv1" not in kdengine("inspect", "resnet8", "--taps-only").out
    assert kdengine("inspect", "resnet8", "--taps-only", "--json").json.keys() >= {"taps", "parameters"}
    assert "modules" not in kdengine("inspect", "resnet8", "--taps-only", "--json").json


def test_classes_and_size_can_be_chosen(kdengine):
    facts = kdengine("inspect", "resnet8", "--classes", 7, "--size", 16, "--json").json
    taps = {tap["name"]: tap["shape"] for tap in facts["taps"]}
    assert taps["logits"] == [2, 7]
    assert taps["stage1"] == [2, 16, 16, 16]


def test_an_unknown_network_and_an_impossible_size_are_told(kdengine):
    said = kdengine("inspect", "timm:resnett18")
    assert (said.code, said.out) == (2, "")
    assert "'resnet18'" in said.err
    said = kdengine("inspect", "timm:vit_tiny_patch16_224", "--size", 1)
    assert said.code == 2
    assert "Traceback" not in said.err


def test_of_two_networks_the_plan_of_a_method_is_shown(kdengine, here, monkeypatch):
    remarks = []
    monkeypatch.setattr(source.log, "warning", lambda text, *values: remarks.append(text % values))
    said = kdengine("inspect", "timm:resnet18", "resnet8", "--plugin", "fitnet", "--plugin", "st", "-o", "fitnet.taps='stage1'")
    assert said.code == 0, said.err
    assert "the teacher runs up to layer1" in said.out
    assert "[64, 8, 8]" in said.out
    facts = kdengine("inspect", "timm:resnet18", "resnet8", "--plugin", "at", "--classes", 7, "--size", 64, "--json").json
    (joint,) = facts["phases"]
    assert [(tap["student"], tap["teacher"]) for tap in joint["taps"]] == [
        ("stage1", "stage1"),
        ("stage2", "stage2"),
        ("stage3", "stage4"),
    ]
    assert joint["taps"][0]["student_shape"] == [16, 64, 64]
    assert facts["data"]["num_classes"] == 7
    assert list(here.iterdir()) == []
    assert not remarks, "nothing is said of the single blank image"


def test_two_networks_without_a_method_and_a_method_without_two_networks_are_told(kdengine):
    for arguments, said in ((["resnet8", "resnet8"], "--plugin"), (["resnet8", "--plugin", "st"], "TEACHER STUDENT")):
        found = kdengine("inspect", *arguments)
        assert found.code == 2
        assert said in found.err

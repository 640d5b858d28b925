import kdzoo  # noqa: F401  registers the small networks with timm
import pytest
import timm

from kdengine import Engine
from kdengine.errors import TapError

DATA = "digits@train=128@test=64"


@pytest.fixture(scope="module")
def plan():
    teacher = timm.create_model("resnet20", num_classes=10)
    options = {"fitnet": {"hint_epochs": 2}}
    return Engine(teacher, "resnet8", plugins=["fitnet", "st"], data=DATA, epochs=5, options=options).plan()


def test_a_plan_names_the_networks_and_the_parameters_of_the_connectors(plan):
    facts = plan.describe()
    as_the_data = {"input": {"size": [3, 32, 32]}}
    assert facts["teacher"] == {"name": "module:CifarResNet", "parameters": 272_474, "stages": 3, **as_the_data}
    assert facts["student"] == {"name": "resnet8", "parameters": 78_042, "stages": 3, **as_the_data}
    hint = 32 * 32 + 32 + 2 * 32  # a 1x1 convolution with bias and a batch normalisation
    assert [(method["name"], method["connector_parameters"]) for method in facts["methods"]] == [("fitnet", hint), ("st", 0)]
    assert sum(part["parameters"] for part in facts["methods"][0]["connectors"]) == hint
    assert facts["methods"][1]["connectors"] == []


def test_a_plan_lays_out_the_stages_with_their_taps(plan):
    hint, joint = plan.describe()["phases"]
    assert (hint["name"], hint["epochs"], hint["task_weight"]) == ("hint", 2, 0.0)
    assert (joint["name"], joint["epochs"]) == ("joint", 5)
    assert joint["task_weight"] == pytest.approx(0.1)
    assert [tap["method"] for tap in joint["taps"]] == ["st"]
    (tap,) = hint["taps"]
    assert (tap["student_place"], tap["student_shape"], tap["teacher_shape"]) == ("layer2", [32, 16, 16], [32, 16, 16])


def test_a_plan_says_how_deep_each_network_runs_and_what_that_costs(plan):
    hint, joint = plan.describe()["phases"]
    for side in ("student", "teacher"):
        assert hint["forwards"][side]["until"] == "layer2"
        assert 0 < hint["forwards"][side]["flops"] < hint["forwards"][side]["whole_flops"]
        whole = joint["forwards"][side]
        assert (whole["until"], whole["flops"]) == (None, whole["whole_flops"])


def test_a_plan_estimates_the_memory(plan):
    memory = plan.describe()["memory"]
    hint, joint = 4 * 2 * 32 * 16 * 16, 4 * 2 * 10  # float32, both networks
    assert memory["taps_per_image"] == max(hint, joint)
    assert memory["lane"] > 4 * 78_042


def test_a_plan_tells_how_a_tensor_lies_in_its_network():
    facts = Engine("timm:vit_tiny_patch16_224", "resnet8", plugins=["at"], data=DATA).plan().describe()
    assert {tap["teacher_layout"] for tap in facts["phases"][0]["taps"]} == {"tokens"}
    assert {tap["student_layout"] for tap in facts["phases"][0]["taps"]} == {"as_is"}


def test_a_plan_writes_nothing_and_trains_nothing(plan):
    assert not plan.folder.path.exists()
    assert plan.lane.history == []


def test_a_plan_refuses_what_the_run_would_refuse():
    with pytest.raises(TapError, match="stage9"):
        Engine("resnet20", "resnet8", plugins=["rkd"], data=DATA, options={"rkd": {"taps": "stage9"}}).plan()


def test_a_plan_shows_every_network_on_the_way_with_its_own_shapes():
    options = {"takd": {"assistants": ["resnet8x4"]}}
    facts = Engine("resnet20", "resnet8", plugins=["multi"], data=DATA, epochs=5, options=options).plan().describe()
    assert [(stage["network"], stage["name"]) for stage in facts["phases"]] == [
        ("resnet8x4", "hint"),
        ("resnet8x4", "joint"),
        ("resnet8", "hint"),
        ("resnet8", "joint"),
    ]
    hints = [stage["taps"][0] for stage in facts["phases"][::2]]
    assert [tap["student_shape"] for tap in hints] == [[128, 16, 16], [32, 16, 16]]
    assert [tap["teacher_shape"] for tap in hints] == [[32, 16, 16], [128, 16, 16]]

import math

import numpy as np
import pytest
import timm
import torch
from kdplugin_takd import TAKD, middle_of
from kdplugin_takd.family import between

from kdengine import ModelError, Registry, SettingsError, hookimpl
from kdengine.testing import make_step

SMALL = "digits@train=16@test=8"


class Watch:
    """An observer that keeps the lane, and the weights of the network in training at the end of each epoch."""

    def __init__(self):
        self.weights = []

    @hookimpl
    def kdengine_after_epoch(self, run, record):
        self.lane = run.lane
        self.weights.append({name: value.clone() for name, value in self.lane.learner.state_dict().items()})

    def connectors(self, method):
        """Trainable values of a method on each link."""
        return [sum(value.numel() for value in link.module.methods[method].parameters()) for link in self.lane.chain]


def places(result):
    """Which networks were taught, in which stages, one place an epoch."""
    return [(record["network"], record["phase"]) for record in result.history]


def test_the_route_leads_through_the_assistants_in_their_order():
    assert TAKD(assistants=("resnet56", "timm:resnet20")).route("timm:resnet110", "resnet8") == (
        "timm:resnet110",
        "resnet56",
        "timm:resnet20",
        "resnet8",
    )
    assert TAKD(assistants=()).route("resnet110", "resnet8") == ("resnet110", "resnet8")
    assert TAKD().route("resnet110", "resnet8") == ("resnet110", "timm:resnet32", "resnet8")


def test_assistants_are_given_as_text_too_with_commas_in_their_own_options():
    assert TAKD(assistants="resnet20").options.assistants == ("resnet20",)
    assert TAKD(assistants="resnet20, cnn2@widths=[16,32],student").options.assistants == (
        "resnet20",
        "cnn2@widths=[16,32]",
        "student",
    )


NAMES = [
    "resnet8",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_28_2",
    "wrn_40_1",
    "wrn_40_2",
]


@pytest.mark.parametrize(
    ("pair", "found"),
    [
        (("resnet32", "resnet8"), ["resnet14", "resnet20"]),
        (("resnet8", "resnet32"), ["resnet14", "resnet20"]),  # a student may be the deeper one
        (("wrn_40_2", "wrn_16_2"), ["wrn_28_2"]),
        (("wrn_40_1", "wrn_16_1"), []),
        (("wrn_40_2", "wrn_16_1"), []),  # two numbers differ
        (("wrn_40_2", "wrn_40_1"), []),
        (("resnet32x4", "resnet8"), []),
        (("resnet20", "resnet14"), []),
        (("resnet20", "resnet20"), []),
        (("resnet110", "resnet8"), []),  # one of them is unknown
        (("wrn_40_2", "resnet8"), []),
        (("vgg8", "resnet8"), []),
        (("", ""), []),
    ],
)
def test_candidates_differ_in_one_number_which_lies_strictly_between(pair, found):
    assert between(*pair, NAMES) == found


@pytest.mark.parametrize(
    ("teacher", "student", "assistant"),
    [
        ("timm:resnet110", "resnet8", "timm:resnet32"),
        ("resnet32", "timm:resnet8", "timm:resnet14"),
        ("cnn8", "cnn16", "timm:cnn12"),
        ("timm:resnet50", "timm:resnet18", "timm:resnet26"),
        ("timm:resnet50.a1_in1k@pretrained=true", "timm:resnet18", "timm:resnet26"),
        ("timm:resnet26", "timm:resnet18", "student"),  # resnet20 is a network for small images, smaller than both
        ("timm:efficientnet_b4@drop_rate=0.1@in_chans=1", "timm:efficientnet_b0@in_chans=1", "timm:efficientnet_b2@in_chans=1"),
        ("resnet32@drop_rate=0.1@pretrained=true", "resnet8@drop_rate=0.1@pretrained=true", "timm:resnet14@drop_rate=0.1"),
        ("resnet8", "resnet8", "student"),
        ("wrn_40_2", "resnet8", "student"),
        ("torchvision:resnet50", "torchvision:resnet18", "student"),
        ("module:CifarResNet", "resnet8", "student"),
        ("python:package.module:resnet32", "resnet8", "student"),
    ],
)
def test_the_assistant_is_of_the_same_family_and_of_middling_size(teacher, student, assistant):
    assert middle_of(teacher, student) == assistant


def test_of_all_candidates_the_one_nearest_to_the_geometric_mean_is_chosen(networks):
    depths = {}
    for depth in (8, 14, 20, 32, 44):
        depths[depth] = sum(value.numel() for value in networks(f"resnet{depth}")[0].parameters())
    for teacher in (20, 32, 44):
        middle = math.sqrt(depths[teacher] * depths[8])
        offs = {depth: max(size, middle) / min(size, middle) for depth, size in depths.items() if 8 < depth < teacher}
        assert middle_of(f"resnet{teacher}", "resnet8") == f"timm:resnet{min(offs, key=offs.get)}"


def test_choosing_draws_no_random_number():
    before = torch.get_rng_state()
    middle_of("resnet32", "resnet8")
    assert torch.equal(torch.get_rng_state(), before)


def test_it_has_no_loss_and_reads_nothing_and_brings_soft_targets_along():
    method = TAKD()
    assert (method.taps_in("joint"), method.taps_in("hint"), list(method.phases())) == (None, None, [])
    assert (method.task_weight, list(method.companions)) == (1, ["st"])
    assert method(make_step(student_logits=torch.zeros(2, 3))) == {}


def test_the_best_weights_are_handed_over_unless_the_last_are_asked_for():
    assert (TAKD().teach_with, TAKD(teach_with="last").teach_with) == ("best", "last")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"assistant": ["resnet20"]}, "'assistants'"),
        ({"assistants": "resnet20,"}, "at least 1 character"),
        ({"teach_with": "first"}, "'best' or 'last'"),
        ({"taps": "stage2"}, "reads no taps"),
    ],
)
def test_a_wrong_option_is_refused_with_the_way_out(options, fault):
    with pytest.raises(SettingsError, match=fault):
        TAKD(**options)


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ("takd", ["takd"]),
        ("kdplugin-takd", ["takd"]),
        ("multi", ["takd", "fitnet", "st"]),
        ("kdplugin-takd:multi", ["takd", "fitnet", "st"]),
    ],
)
def test_the_method_and_the_composition_are_found_by_name(text, methods):
    assert [method.name for method in Registry().methods(text)] == methods


def test_a_run_through_two_assistants_reports_the_student(distil):
    watch = Watch()
    result = distil(["takd"], SMALL, takd={"assistants": "resnet14,student"}, observers=[watch])
    assert places(result) == [("resnet14", "joint"), ("resnet8", "joint"), ("resnet8", "joint")]
    assert all(set(record["terms"]) == {"task", "st.soft"} for record in result.history)
    assert [found["name"] for found in result.facts["assistants"]] == ["resnet14", "resnet8"]
    assert result.top1 == result.history[-1]["test_top1"]
    weights = result.student.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in watch.weights[-1].items())
    assert any(not torch.equal(weights[name], value) for name, value in watch.weights[1].items())


def test_every_link_is_taught_by_the_methods_that_stand_beside_it(distil):
    result = distil(["takd", "at"], SMALL, takd={"assistants": ["resnet14"]})
    assert places(result) == [("resnet14", "joint"), ("resnet8", "joint")]
    assert all(set(record["terms"]) == {"task", "at.attention"} for record in result.history)


def test_left_out_the_assistant_of_a_run_is_chosen_by_its_size(distil):
    teacher = timm.create_model("resnet32", num_classes=10)
    assert places(distil(["takd"], SMALL, teacher=teacher)) == [("resnet8", "joint")] * 2  # a module has no family


def test_an_assistant_that_there_is_not_is_refused_before_training(distil):
    with pytest.raises(ModelError, match="resnet15"):
        distil(["takd"], SMALL, takd={"assistants": "resnet15"})


@pytest.mark.parametrize("teach_with", ["best", "last"])
def test_an_assistant_teaches_with_its_best_or_with_its_last_weights(teach_with, distil):
    watch = Watch()
    # nothing is learnt but the statistics of the batches, so the first epoch measures best
    result = distil(
        ["takd"], "digits@train=32@test=2", epochs=3, observers=[watch], train={"lr": 1e-12}, takd={"teach_with": teach_with}
    )
    assert result.facts["assistants"][0]["best_epoch"] == 1
    used = watch.lane.chain[0].module.student.state_dict()
    same = [all(torch.equal(used[name], value) for name, value in weights.items()) for weights in watch.weights[:3]]
    assert same == ([True, False, False] if teach_with == "best" else [False, False, True])


def test_multi_of_motakuss_gives_hints_and_soft_targets_on_both_links(distil, networks):
    watch = Watch()
    result = distil(
        ["multi"],
        SMALL,
        teacher=networks("cnn8")[0],
        student="cnn16",
        observers=[watch],
        takd={"assistants": "cnn12"},
        fitnet={"preset": "motakuss"},
        st={"preset": "motakuss"},
    )
    assert places(result) == [(name, phase) for name in ("cnn12", "cnn16") for phase in ("hint", "joint")]
    assert [set(record["terms"]) for record in result.history] == [{"fitnet.hint"}, {"st.soft", "st.hard"}] * 2
    assert all(np.isfinite(value) for record in result.history for value in record["terms"].values())
    assert watch.connectors("fitnet") == [74_112, 18_624]  # the regressors of 64 -> 128 and 32 -> 64 channels
    assert sum(value.numel() for value in result.student.parameters()) == 705_402


def test_multi_works_on_residual_networks_too(distil):
    result = distil(["multi"], SMALL, takd={"assistants": "resnet14"}, fitnet={"hint_epochs": 1})
    assert places(result) == [(name, phase) for name in ("resnet14", "resnet8") for phase in ("hint", "joint")]
    assert [set(record["terms"]) for record in result.history] == [{"fitnet.hint"}, {"task", "st.soft"}] * 2
    assert result.top1 == result.history[-1]["test_top1"]

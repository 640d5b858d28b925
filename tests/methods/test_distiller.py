import json
from typing import ClassVar, Literal

import pytest
import torch
from pydantic import Field

from kdengine import Distiller, Engine, Phase, Registry, SettingsError, Trace
from kdengine.methods.pair import Pair
from kdengine.methods.step import Step


class Example(Distiller):
    """An example of a method.

    It has more to say of itself.

    Source: Someone, "A paper
        of two lines", 2020.

    And something after it.
    """

    name = "example"
    category = "relational"
    taps = ("stage1", "embedding")
    presets: ClassVar = {"paper": {"beta": 3.0, "kind": "ce", "taps": "stage2,embedding"}}

    class Options(Distiller.Options):
        beta: float = Field(1.0, ge=0)
        """Weight of the term."""
        kind: Literal["kl", "ce"] = "kl"
        """Which divergence."""
        layers: list[int] = Field(default_factory=lambda: [1, 2])
        """Some layers."""

    def forward(self, step):
        return {"loss": self.options.beta * step.student.logits.mean()}


def refusal(**options):
    with pytest.raises(SettingsError) as caught:
        Example(**options)
    return str(caught.value)


def test_a_method_without_forward_cannot_be_made():
    class Silent(Distiller):
        name = "silent"

    with pytest.raises(TypeError, match=r"abstract.*forward"):
        Silent()


def test_options_are_typed_values_with_defaults():
    options = Example(beta="2").options
    assert (options.beta, options.kind, options.weight, options.taps) == (2.0, "kl", 1.0, None)
    with pytest.raises(ValueError, match="frozen"):
        options.beta = 3.0


def test_an_unknown_option_is_answered_with_the_nearest():
    assert refusal(bta=1) == "There is no option 'example.bta'. Did you mean 'beta'?"


def test_all_faults_of_the_options_are_said_at_once():
    faults = refusal(bta=1, beta=-1, kind="mse", weight=-2).splitlines()
    assert len(faults) == 4
    assert "example.kind = 'mse': it must be 'kl' or 'ce'." in faults
    assert "example.weight = -2: it must be greater than or equal to 0." in faults


@pytest.mark.parametrize(
    ("taps", "read"),
    [
        ("stage2", ("stage2",)),
        ("layer2=blocks.5", ("layer2=blocks.5",)),
        ("stage2, embedding", ("stage2", "embedding")),
        (["stage2", "logits"], ("stage2", "logits")),
        (("a=b", "c"), ("a=b", "c")),
    ],
)
def test_taps_are_given_as_text_or_as_a_list(taps, read):
    method = Example(taps=taps)
    assert method.options.taps == read
    assert method.taps_in("joint") == read


def test_taps_of_another_kind_are_refused():
    assert "example.taps = 3" in refusal(taps=3)


def test_the_taps_of_the_class_are_read_where_none_are_given():
    assert Example().taps_in("joint") == ("stage1", "embedding")


def test_a_preset_is_a_set_of_options_and_what_is_said_beside_it_wins():
    method = Example(preset="paper", beta=5)
    assert (method.options.beta, method.options.kind, method.options.taps) == (5.0, "ce", ("stage2", "embedding"))


def test_an_unknown_preset_is_answered_with_the_nearest_or_with_all():
    assert refusal(preset="papr") == "example has no preset 'papr'. Did you mean 'paper'?"
    assert refusal(preset="zzz") == "example has no preset 'zzz'. Available: paper."


@pytest.mark.parametrize("preset", [3, ["paper"], True])
def test_a_preset_that_is_no_name_is_refused_as_an_option(preset):
    assert f"example.preset = {preset!r}" in refusal(preset=preset)


def test_a_description_is_plain_data():
    description = Example.describe()
    assert json.loads(json.dumps(description))["name"] == "example"
    assert description["category"] == "relational"
    assert description["summary"] == "An example of a method."
    assert description["source"] == 'Someone, "A paper of two lines", 2020.'
    assert description["taps"] == ["stage1", "embedding"]
    assert description["presets"]["paper"]["beta"] == 3.0


def test_a_description_has_every_option_with_default_help_and_type():
    options = Example.describe()["options"]
    assert options["beta"] == {"default": 1.0, "help": "Weight of the term.", "type": "float"}
    assert options["kind"] == {"default": "kl", "help": "Which divergence.", "type": "Literal['kl', 'ce']"}
    assert options["layers"]["default"] == [1, 2]
    assert {"weight", "taps", "preset"} < set(options)


def test_a_method_that_says_nothing_of_itself_has_an_empty_description():
    class Quiet(Example):
        pass

    assert (Quiet.describe()["summary"], Quiet.describe()["source"]) == ("", "")


@pytest.mark.parametrize("name", ["at", "fitnet", "rkd", "st"])
def test_every_option_of_the_shipped_methods_is_described_and_every_preset_fits(name):
    (method,) = Registry().methods(name)
    description = method.describe()
    assert json.dumps(description)
    assert description["summary"]
    assert description["source"]
    assert [option for option, facts in description["options"].items() if not facts["help"]] == []
    for preset in description["presets"]:
        assert method(preset=preset).options.preset == preset


def test_what_a_method_does_not_say_leaves_training_as_it_is():
    method, student = Example(), torch.nn.Linear(2, 2)
    assert method.task_weight == 1.0
    assert list(method.phases()) == []
    assert method.deploy(student) is student
    method.build(None)
    assert list(method.parameters()) == []


def test_submodules_made_in_build_are_connectors():
    class Connected(Example):
        def build(self, pair):
            self.regressor = torch.nn.Linear(pair.student["stage1"].shape[1], pair.teacher["stage1"].shape[1])

    trace = Trace({"stage1": torch.empty(2, 4, device="meta")}, None)
    wide = Trace({"stage1": torch.empty(2, 6, device="meta")}, None)
    method = Connected()
    method.build(Pair(trace, wide, 10, 100, lambda spec: torch.nn.Linear(1, 1)))
    assert [tuple(parameter.shape) for parameter in method.parameters()] == [(6, 4), (6,)]


def test_the_pairs_of_a_step_are_its_taps_on_both_sides_in_order():
    student = Trace({"stage1": torch.zeros(2, 3), "stage2": torch.ones(2, 3)}, torch.zeros(2, 5))
    teacher = Trace({"stage2": torch.full((2, 3), 2.0), "stage4": torch.full((2, 3), 4.0)}, torch.zeros(2, 5))
    names = [("stage1", "stage2"), ("stage2", "stage4")]
    step = Step(torch.zeros(2, 3, 4, 4), torch.zeros(2), torch.arange(2), student, teacher, names=names)
    assert [(pair.name, pair.student.mean().item(), pair.teacher.mean().item()) for pair in step.pairs] == [
        ("stage1", 0.0, 2.0),
        ("stage2", 1.0, 4.0),
    ]
    assert (step.phase, step.epoch, step.progress) == ("joint", 0, 0.0)


def test_a_pair_says_which_taps_of_the_teacher_are_rectified():
    trace = Trace({"stage1": torch.zeros(2, 3), "stage1.pre": torch.zeros(2, 3)}, None)
    names = [("stage1", "stage1"), ("stage1.pre", "stage1.pre")]
    pair = Pair(trace, trace, 10, 100, lambda spec: torch.nn.Linear(1, 1), names, {"stage1"})
    assert [tap.rectified for tap in pair.pairs] == [True, False]


def test_a_stage_counts_its_own_terms_alone_unless_it_says_otherwise():
    assert not Phase("hint", 3).task
    assert Phase("hint", 0.5, task=True).task


def test_a_method_without_a_name_says_so():
    class Nameless(Distiller):
        def forward(self, step):
            return {}

    with pytest.raises(SettingsError, match=r"Nameless has no name\. Give the class one"):
        Nameless()


def test_a_method_that_requires_no_teacher_has_no_taps_on_both_networks_unless_it_names_some():
    class Alone(Distiller):
        name = "alone"
        requires_teacher, student_taps = False, ("stages",)

        def forward(self, step):
            return {"self": sum(step.student[name].square().mean() for name in step.student_taps)}

    class Naming(Alone):
        taps = ("logits",)

    class Below(Naming):
        name = "below"

    assert (Alone.taps, Naming.taps, Below.taps) == ((), ("logits",), ("logits",))
    plan = Engine(None, "resnet8", [Alone()], "digits@train=32@test=16").plan()
    assert plan.lane.module.methods["alone"].student_taps == ("stages",)

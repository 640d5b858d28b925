"""Lanes with several teachers: every method learns from each, its terms averaged, its connectors its own."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from kdengine import Comparison, Distiller, Engine, Registry, SettingsError, StepTransform, hookimpl
from kdengine.networks.models import ModelSource
from kdengine.plugins.groups import has_loss
from kdengine.testing.networks import tiny_pair, vit_pair
from kdengine.training.signals import Stopped

FAST = {"data": "digits@train=24@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 1}
TIMES = ("seconds", "images_per_second")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Run folders land in the test's own folder."""
    monkeypatch.chdir(tmp_path)


def network(name="resnet14", seed=5):
    return ModelSource(name, {"num_classes": 10}, (3, 32, 32), Registry()).create(seed)


def teachers():
    return [network("resnet14", 1), network("resnet20", 2)]


def fit(teacher, plugins, **settings):
    return Engine(teacher, "resnet8", plugins, **{**FAST, **settings}).fit()


def rows(result):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in result.history]


class Pull(Distiller):
    """Pulls the logits together."""

    name = "pull"

    def forward(self, step):
        return {"square": (step.student.logits - step.teacher.logits).square().mean()}


class Doubling(StepTransform):
    """Shows logits twice as large."""

    name = "doubling"

    def transform(self, step):
        return step.with_logits(lambda logits: 2 * logits, lambda logits: 2 * logits)


@pytest.mark.parametrize("methods", [[Pull], [Doubling, Pull]])
def test_the_terms_of_a_method_are_averaged_over_its_teachers_to_the_last_bit(methods):
    one_step = {"data": "digits@train=8@test=16"}
    a, b, both = (
        fit(teacher, [method() for method in methods], out=name, **one_step)
        for name, teacher in (("a", teachers()[0]), ("b", teachers()[1]), ("both", teachers()))
    )
    shown = [torch.tensor(run.history[0]["terms"]["pull.square"]) for run in (a, b, both)]
    assert torch.equal(shown[2], shown[0] / 2 + shown[1] / 2)
    assert shown[0] != shown[1]
    assert a.history[0]["terms"]["task"] == both.history[0]["terms"]["task"]
    # one step of SGD is linear in the gradient, so the weights move by the mean of what each teacher alone moves them
    weights = [load_file(f"{name}/student.safetensors")["fc.weight"] for name in ("a", "b", "both")]
    assert torch.allclose(weights[2], (weights[0] + weights[1]) / 2, atol=1e-7)
    assert not torch.allclose(weights[0], weights[1], atol=1e-5)


@pytest.mark.slow
def test_three_teachers_count_a_third_each():
    members = [network("resnet14", seed) for seed in range(3)]
    one_step = {"data": "digits@train=8@test=16"}
    alone = [fit(member, [Pull()], **one_step).history[0]["terms"]["pull.square"] for member in members]
    together = fit(members, [Pull()], **one_step).history[0]["terms"]["pull.square"]
    assert together == pytest.approx(sum(alone) / 3, rel=1e-6)


def test_each_teacher_has_connectors_of_its_own_which_are_trained_and_saved(tmp_path):
    class Watch:
        before: dict

        @hookimpl
        def kdengine_before_fit(self, run):
            self.before = {key: value.clone() for key, value in run.lane.module.distillers.state_dict().items()}

    watch = Watch()
    result = fit(teachers(), ["fitnet"], out="run", options={"fitnet": {"mode": "joint"}}, observers=[watch])
    after = load_file(tmp_path / "run" / "connectors.safetensors")
    first, second = (f"{key}.regressors.0.change.0.weight" for key in ("fitnet", "fitnet~2"))
    assert after.keys() == watch.before.keys() >= {first, second}
    assert not torch.equal(watch.before[first], watch.before[second])
    assert all(not torch.equal(after[key], watch.before[key]) for key in (first, second))
    assert result.facts["methods"] == ["fitnet"]
    assert result.history[0]["terms"].keys() == {"task", "fitnet.hint"}


class StopIn:
    """Asks for a stop after the first step of the second epoch."""

    @hookimpl
    def kdengine_after_step(self, run, done):
        self.again = run.again
        if len(run.lane.history) == 1 and done == 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.usefixtures("unheard_signals")
def test_a_resumed_run_ends_bit_for_bit_like_an_undisturbed_one(tmp_path):
    known = {"epochs": 2, "options": {"fitnet": {"hint_epochs": 1}}}
    whole = fit(teachers(), ["fitnet", "st"], out="whole", **known)
    stop = StopIn()
    with pytest.raises(Stopped):
        fit(teachers(), ["fitnet", "st"], out="cut", observers=[stop], **known)
    assert 'Engine.resume("cut", teacher=[..., ...])' in stop.again
    resumed = Engine.resume("cut", teacher=teachers()).fit()
    assert rows(resumed) == rows(whole)
    for name in ("student", "connectors"):
        first, second = (load_file(tmp_path / folder / f"{name}.safetensors") for folder in ("whole", "cut"))
        assert all(torch.equal(first[key], second[key]) for key in first), name


@pytest.mark.usefixtures("unheard_signals")
def test_resuming_with_other_teachers_is_refused():
    with pytest.raises(Stopped):
        fit(teachers(), ["st"], out="cut", observers=[StopIn()], epochs=2)
    with pytest.raises(SettingsError, match="its teacher was"):
        Engine.resume("cut", teacher=list(reversed(teachers()))).fit()


@pytest.mark.slow
def test_a_list_of_one_teacher_is_that_teacher():
    alone, listed = (fit(teacher, ["fitnet", "st"]) for teacher in (network(), [network()]))
    assert rows(alone) == rows(listed)
    assert "members" not in alone.facts["teacher"]
    assert alone.facts["teacher"] == listed.facts["teacher"]


def test_the_lanes_of_a_comparison_share_the_forward_of_each_teacher():
    members, counts = teachers(), [0, 0]

    def note(number):
        return lambda *_: counts.__setitem__(number, counts[number] + 1)

    for number, member in enumerate(members):
        member.fc.register_forward_hook(note(number))

    class Note:
        before: list

        @hookimpl
        def kdengine_before_fit(self):
            self.before = list(counts)

    watch = Note()
    settings = {**FAST, "fold_teacher": False}
    board = Comparison(members, "resnet8", ["st", "rkd", "pull"], observers=[watch], registry=_with(Pull), **settings).fit()
    assert len(board.rows) == 4
    assert [after - before for after, before in zip(counts, watch.before, strict=True)] == [3, 3]


def _with(method):
    registry = Registry()
    file = "pull_kd.py"
    with open(file, "w") as out:
        out.write(
            "from kdengine import Distiller\n\n\nclass Pull(Distiller):\n    name = 'pull'\n\n    def forward(self, step):\n"
            "        return {'square': (step.student.logits - step.teacher.logits).square().mean()}\n"
        )
    registry.methods(f"./{file}")
    return registry


class Asking(Distiller):
    """Keeps what it is told when it builds."""

    name = "asking"

    def build(self, pair):
        self.made = pair.new_network("teacher")
        self.requires_grad_(False)

    def forward(self, step):
        return {"zero": 0.0 * step.student.logits.sum()}


def test_a_copy_of_a_method_means_its_own_teacher_by_teacher():
    lane = Engine(teachers(), "resnet8", [Asking()], **FAST).plan().lane
    sizes = [sum(value.numel() for value in method.made.parameters()) for method in lane.module.methods.values()]
    assert sizes == [sum(value.numel() for value in member.parameters()) for member in teachers()]


class Everyone(Distiller):
    """Reads all teachers at once."""

    name = "everyone"
    reads = "all-teachers"

    def build(self, pair):
        self.count = len(pair.per_teacher)

    def forward(self, step):
        logits = torch.stack([one.teacher.logits for one in step.per_teacher])
        return {"square": (step.student.logits - logits.mean(0)).square().mean()}


def test_a_method_that_reads_all_teachers_is_used_once_and_its_plan_shows_every_tap():
    plan = Engine(teachers(), "resnet8", [Everyone()], **FAST).plan()
    assert list(plan.lane.module.methods) == ["everyone"]
    assert plan.lane.module.methods["everyone"].count == 2
    (joint,) = plan.describe()["phases"]
    assert [tap["of"] for tap in joint["taps"]] == ["teacher", "teacher 2"]
    assert list(joint["forwards"]) == ["student", "teacher", "teacher 2"]


def test_the_plan_names_the_copies_of_a_method_by_their_teacher():
    plan = Engine(teachers(), "resnet8", ["fitnet"], **FAST).plan().describe()
    assert [method["name"] for method in plan["methods"]] == ["fitnet", "fitnet, teacher 2"]
    assert [plan[role]["name"] for role in ("teacher", "teacher 2")] == ["module:CifarResNet", "module:CifarResNet"]


def test_a_curriculum_refuses_several_teachers_by_its_name():
    with pytest.raises(SettingsError, match="takd leads from one teacher to the student, but this run has 2 teachers"):
        Engine(teachers(), "resnet8", ["takd"], **FAST).plan()


def _goes_with_several(method):
    ships = method.ships_a_network() and method.reads == "each-teacher"
    return has_loss(method) and "classes" in method.serves and not ships


@pytest.mark.slow
def test_every_method_learns_from_two_teachers_of_other_widths_at_once():
    registry = Registry()
    registry.load_all()
    kinds = {name: registry.methods(name) for name in registry.offered("methods")}
    methods = [name for name, parts in kinds.items() if all(map(_goes_with_several, parts))]
    members, student = [tiny_pair()[0], vit_pair()[0]], tiny_pair(seed=3)[1]
    options = {"phi-s": {"batches": 1}} if "phi-s" in methods else {}
    one_step = {"data": "digits@train=8@test=8", "batch_size": 8, "lr": 1e-4}
    run = Engine(members, student, methods, options=options, **{**FAST, **one_step}).fit()
    seen = {term.partition(".")[0] for record in run.history for term in record["terms"]}
    assert seen - {"task"} == set(methods)
    assert not any("~" in term for record in run.history for term in record["terms"])

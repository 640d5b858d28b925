from dataclasses import replace

import pytest
import torch

from kdengine import Curriculum, Engine, ModelError, Registry, SettingsError, hookimpl
from kdengine.networks.factory import NetworkFactory
from kdengine.networks.inputs import ImageSpec
from kdengine.networks.models import ModelSource
from kdengine.networks.network import LaneContext, Network
from kdengine.tasks import Classification
from kdengine.training.chain import chain

SIZE = (3, 32, 32)
FAST = {"data": "digits@train=24@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}


def network(name, seed=0):
    return Network.probed(name, ModelSource(name, {"num_classes": 10}, SIZE, Registry()).create(seed), SIZE, Classification(10))


@pytest.fixture(scope="module")
def context():
    maker = NetworkFactory({"student": "resnet8", "teacher": "resnet32"}, {"num_classes": 10}, ImageSpec(SIZE), Registry(), 1)
    return LaneContext(network("resnet8"), (network("resnet32"),), Classification(10), 100, SIZE, maker)


class Via(Curriculum):
    """Passes through the networks that it is told, and matches logits on the way."""

    name = "via"
    taps = ("logits",)

    class Options(Curriculum.Options):
        between: tuple[str, ...] = ()
        keep: str = "best"
        ends: bool = True

    def route(self, teacher, student):
        return (teacher, *self.options.between, student) if self.options.ends else (student, teacher)

    @property
    def teach_with(self):
        return self.options.keep

    def taps_in(self, phase):
        return self.taps

    def build(self, pair):
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, step):
        return {"match": (self.gain * step.student.logits - step.teacher.logits).square().mean()}


class Other(Via):
    name = "other"


def pairs(found):
    return [(taught.teachers[0].name, taught.student.name) for taught, _ in found]


def test_without_a_detour_the_student_learns_from_the_teacher(context):
    methods = {"via": Via()}
    ((taught, given),) = chain(context, methods)
    assert (taught.student, taught.teachers, given) == (context.student, context.teachers, methods)


def test_each_network_learns_from_the_one_before_it_with_distillers_of_its_own(context):
    methods = {"via": Via(between=("resnet20", "student"))}
    found = chain(context, methods)
    assert pairs(found) == [("resnet32", "resnet20"), ("resnet20", "resnet8"), ("resnet8", "resnet8")]
    assert found[1][0].teachers == (found[0][0].student,)
    assert found[-1][0].student is context.student
    assert len({id(given["via"]) for _, given in found}) == 3
    assert found[-1][1]["via"] is methods["via"]
    twins = [taught.student.module for taught, _ in found[1:]]
    assert not torch.equal(twins[0].conv1.weight, twins[1].conv1.weight)


def test_a_run_without_a_teacher_has_no_way_to_go(context):
    assert len(chain(replace(context, teachers=()), {})) == 1


def test_two_methods_may_agree_but_not_differ(context):
    same = {"via": Via(between=("resnet14",)), "other": Other(between=("resnet14",))}
    assert len(chain(context, same)) == 2
    assert len(chain(context, {**same, "other": Other()})) == 2
    with pytest.raises(
        SettingsError, match="via asks for resnet32 -> resnet14 -> resnet8; other asks for resnet32 -> resnet20"
    ):
        chain(context, {**same, "other": Other(between=("resnet20",))})


def test_a_route_must_keep_to_its_ends_and_name_networks_that_there_are(context):
    with pytest.raises(SettingsError, match="from 'resnet32' to 'resnet8'"):
        chain(context, {"via": Via(ends=False)})
    with pytest.raises(ModelError, match="resnet14"):
        chain(context, {"via": Via(between=("resnet15",))})


def fit(tmp_path, epochs=2, **options):
    teacher = ModelSource("resnet14", {"num_classes": 10}, SIZE, Registry()).create(3)
    lanes = []

    class Watch:
        @hookimpl
        def kdengine_before_fit(self, run):
            lanes.append(run.lane)

    engine = Engine(teacher, "resnet8", [Via(**options)], epochs=epochs, out=tmp_path / "run", observers=[Watch()], **FAST)
    return engine.fit(), lanes[0]


@pytest.mark.slow
def test_a_run_reports_the_student_and_keeps_the_assistants(tmp_path):
    result, lane = fit(tmp_path, between=("resnet14", "resnet8"))
    assert [row["chain_step"] for row in result.history] == [1, 1, 2, 2, 3, 3]
    assert [row["network"] for row in result.history[::2]] == ["resnet14", "resnet8", "resnet8"]
    assert result.top1 == result.history[-1]["test_top1"]
    assert result.best_top1 == max(row["test_top1"] for row in result.history[4:])
    assert result.student is lane.student
    assistants = result.facts["assistants"]
    assert [(found["name"], found["top1"]) for found in assistants] == [
        ("resnet14", result.history[1]["test_top1"]),
        ("resnet8", result.history[3]["test_top1"]),
    ]
    kept = [(tmp_path / "run" / f"assistant-{number}.safetensors").is_file() for number in (1, 2, 3)]
    assert kept == [True, True, False]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("keep", "best_teaches"), [("best", True), ("last", False)])
def test_the_assistant_teaches_with_its_best_or_its_last_weights(keep, best_teaches, tmp_path, monkeypatch):
    from kdengine.training.lane import Lane

    measured = iter([90.0, 10.0, 50.0, 60.0])
    seen = []
    whole = Lane.end_epoch

    def end_epoch(self, accuracy, seconds=0.0):
        seen.append({key: value.clone() for key, value in self.learner.state_dict().items()})
        return whole(self, {**accuracy, "test_top1": next(measured)}, seconds)

    monkeypatch.setattr(Lane, "end_epoch", end_epoch)
    _, lane = fit(tmp_path, between=("resnet8",), keep=keep)
    used = lane.chain[0].module.student.state_dict()
    taught_with = seen[0] if best_teaches else seen[1]
    assert all(torch.equal(used[key], value) for key, value in taught_with.items())


def test_the_next_network_learns_from_the_assistant_and_not_from_the_teacher(tmp_path, monkeypatch):
    from kdengine.training.teacher import FrozenTeacher

    asked = []
    whole = FrozenTeacher.trace

    def trace(self, *args, **kwargs):
        asked.append(self.model)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(FrozenTeacher, "trace", trace)
    _, lane = fit(tmp_path, epochs=1, between=("resnet8",))
    assert len(set(map(id, asked))) == 2
    assert asked[-1] is lane.chain[0].module.student
    assert asked[0] is not asked[-1]
    assert not any(module.training for module in asked[-1].modules())


@pytest.mark.slow
def test_a_chain_goes_on_where_it_stopped(tmp_path):
    class Stop:
        def __init__(self, after):
            self.after = after

        @hookimpl(trylast=True)
        def kdengine_after_epoch(self, record):
            if record["epoch"] == self.after:
                raise KeyboardInterrupt

    def engine(name, after=0):
        settings = {"options": {"takd": {"assistants": ["resnet14", "resnet8"]}}, "out": tmp_path / name, "epochs": 2, **FAST}
        return Engine("resnet20", "resnet8", ["takd"], observers=[Stop(after)], **settings)

    whole = engine("whole").fit()
    for after in (1, 2, 5):
        with pytest.raises(KeyboardInterrupt):
            engine(f"part{after}", after).fit()
        resumed = Engine.resume(tmp_path / f"part{after}").fit()
        assert [row["terms"] for row in resumed.history] == [row["terms"] for row in whole.history]
        weights = whole.student.state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in resumed.student.state_dict().items())
        kept = [(tmp_path / name / "assistant-1.safetensors").read_bytes() for name in ("whole", f"part{after}")]
        assert kept[0] == kept[1]

import shutil
import sys
import time
from types import SimpleNamespace

import kdplugin_tensorboard as plugin
import pytest
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tensorboard.plugins.hparams import metadata

from kdengine import Distiller, Engine, PluginError, Registry, TrainingError, hookimpl
from kdengine.cli.main import main
from kdengine.storage.runfolder import RunFolder

FAST = {"precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}
DATA = "digits@train=16@test=16"


@pytest.fixture
def engine(tmp_path):
    """An engine with a teacher that is trained first."""

    def make(plugins=("rkd", "tensorboard"), out=tmp_path / "run", teacher="resnet14", **settings):
        return Engine(teacher, "resnet8", plugins, DATA, out=out, **{"epochs": 3, **FAST, **settings})

    return make


class Break(Exception):
    """Whatever may come between."""


class BreakOff:
    """Ends a run after an epoch, as soon as its state is saved; the log comes after that."""

    def __init__(self, epoch, error, teachers=False):
        self.epoch, self.error, self.teachers = epoch, error, teachers

    @hookimpl(tryfirst=True)
    def kdengine_after_epoch(self, run, record):
        if record["epoch"] == self.epoch and (run.settings.teacher is None) == self.teachers:
            raise self.error


class Exploding(Distiller):
    """Its loss is no longer finite in the second epoch."""

    name = "exploding"
    taps = ("logits",)

    def forward(self, step):
        return {"bang": step.student.logits.sum() * (float("nan") if step.epoch else 0.0)}


def read(folder):
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    return found.Reload()


def resumed(folder):
    """The engine that goes on, a second later: TensorBoard reads files by their names, and names them by the second."""
    time.sleep(1)
    return Engine.resume(folder)


def logged(folder):
    """All scalars of a log: tag -> (step, value), in the order of the steps."""
    events = read(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def texts(folder):
    events = read(folder).Tensors("phase/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events]


def measured(folder):
    """What the log must hold of a run, from its ``metrics.jsonl``; ``test_top1`` is ``top1/test`` there."""
    expected = {}
    for row in RunFolder(folder).metrics():
        numbers = {f"terms/{name}": value for name, value in row["terms"].items()}
        for name in ("loss", "lr", "seconds", "images_per_second"):
            numbers[name] = row[name]
        for split in ("train", "val", "test"):
            for name in ("top1", "top5", "loss"):
                if f"{split}_{name}" in row:
                    numbers[f"{name}/{split}"] = row[f"{split}_{name}"]
        for tag, value in numbers.items():
            expected.setdefault(tag, []).append((row["epoch"], pytest.approx(value, rel=1e-6)))
    return expected


def curves(folder):
    """The scalars that come of ``metrics.jsonl`` alone."""
    return {tag: points for tag, points in logged(folder).items() if tag != "phase" and not tag.startswith("result/")}


def chosen(folder):
    """The hyperparameters that TensorBoard finds."""
    tags = read(folder).PluginTagToContent("hparams")
    assert metadata.EXPERIMENT_TAG not in tags, "it would hide the options that only later runs have"
    assert metadata.SESSION_END_INFO_TAG in tags
    found = metadata.parse_session_start_info_plugin_data(tags[metadata.SESSION_START_INFO_TAG])
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.hparams.items()}


def test_the_log_holds_every_number_of_the_metrics(distil):
    result = distil(["rkd", "tensorboard"], epochs=2)
    found = curves(result.folder)
    assert found == measured(result.folder)
    assert [epoch for epoch, _ in found["terms/rkd.angle"]] == [1, 2]
    assert {"terms/task", "terms/rkd.distance", "top1/train", "top1/test", "top5/test", "loss/test"} < set(found)


def test_held_out_images_are_measured_too(distil):
    result = distil(["st", "tensorboard"], train={"validation": 0.25})
    found = curves(result.folder)
    assert found == measured(result.folder)
    assert {"top1/val", "top5/val", "loss/val"} < set(found)


@pytest.mark.slow
def test_the_axis_runs_over_all_phases_and_their_beginnings_are_marked(distil):
    folder = distil(["fitnet", "tensorboard"], epochs=2, fitnet={"hint_epochs": 3}).folder
    found = logged(folder)
    assert found["phase"] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]
    assert texts(folder) == [(1, "Phase 1 of 2: hint"), (4, "Phase 2 of 2: joint")]
    assert [epoch for epoch, _ in found["terms/fitnet.hint"]] == [1, 2, 3]
    assert [epoch for epoch, _ in found["top1/test"]] == [4, 5]
    assert curves(folder) == measured(folder)


@pytest.mark.slow
def test_a_chain_names_the_network_that_is_taught(engine):
    folder = engine(["takd", "tensorboard"], options={"takd": {"assistants": ["resnet14"]}}, epochs=1).fit().folder
    assert texts(folder) == [(1, "Phase 1 of 2: joint of resnet14"), (2, "Phase 2 of 2: joint of resnet8")]
    assert curves(folder) == measured(folder)


@pytest.mark.slow
def test_the_end_says_what_was_chosen_and_what_came_of_it(engine):
    result = engine(["rkd", "tensorboard"], options={"rkd": {"angle": 7.5, "taps": ["stage2", "stage3"]}}, seed=3).fit()
    found = logged(result.folder)
    assert found["result/top1"] == [(3, pytest.approx(result.top1, rel=1e-6))]
    assert found["result/best_top1"] == [(3, pytest.approx(result.best_top1, rel=1e-6))]
    options = chosen(result.folder)
    networks = {"student": "resnet8", "teacher": "resnet14", "data": DATA, "method": result.facts["method"], "seed": 3}
    training = {"train.lr": 0.02, "train.epochs": 3, "train.optimizer": "sgd", "train.nesterov": "true"}
    assert networks.items() | training.items() <= options.items()
    methods = {"rkd.weight": 1, "rkd.taps": "stage2, stage3", "rkd.angle": 7.5, "rkd.distance": 25}
    assert methods.items() <= options.items()
    assert "train.ema" not in options, "what was left out is left out"


@pytest.mark.slow
def test_the_teachers_own_training_has_a_log_in_its_own_folder(engine, tmp_path, own_cache):
    result = engine(epochs=2).fit()
    (teacher,) = (tmp_path / "cache" / "teachers").glob("resnet14-*/")
    assert curves(teacher) == measured(teacher)
    assert logged(teacher)["result/top1"] == [(2, pytest.approx(result.teacher_top1, rel=1e-6))]
    assert chosen(teacher)["student"] == "resnet14"
    assert "teacher" not in chosen(teacher)


@pytest.mark.slow
def test_plain_training_is_logged(tmp_path):
    folder = Engine(None, "resnet8", ["tensorboard"], DATA, out=tmp_path / "run", epochs=1, **FAST).fit().folder
    assert curves(folder) == measured(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Break])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_resumed_run_goes_on_with_its_log_and_no_epoch_stands_there_twice_or_never(epoch, kind, engine, tmp_path):
    with pytest.raises(kind):
        engine(observers=[BreakOff(epoch, kind())]).fit()
    assert plugin._writers == {}, "the log is closed"
    assert [step for step, _ in logged(tmp_path / "run").get("loss", [])] == list(range(1, epoch))
    folder = resumed(tmp_path / "run").fit().folder
    assert logged(folder)["phase"] == [(1, 1), (2, 1), (3, 1)]
    assert texts(folder) == [(1, "Phase 1 of 1: joint")]
    assert curves(folder) == measured(folder)
    assert len(list((folder / "tensorboard").iterdir())) == 2
    assert chosen(folder)["rkd.angle"] == 50


@pytest.mark.slow
def test_epochs_that_were_logged_but_whose_state_was_lost_are_dropped(engine, tmp_path):
    class KeepFirst:
        @hookimpl
        def kdengine_after_epoch(self, run, record):
            if run.settings.teacher and record["epoch"] == 1:
                shutil.copytree(run.folder.path / "state", tmp_path / "kept")

    with pytest.raises(Break):
        engine(observers=[KeepFirst(), BreakOff(3, Break())]).fit()
    folder = tmp_path / "run"
    before = logged(folder)["seconds"]
    assert [step for step, _ in before] == [1, 2]
    shutil.rmtree(folder / "state")
    shutil.move(tmp_path / "kept", folder / "state")
    resumed(folder).fit()
    assert curves(folder) == measured(folder)


@pytest.mark.slow
def test_a_log_that_begins_late_gets_the_epochs_before_it(engine, tmp_path, own_cache):
    with pytest.raises(Break):
        engine(["rkd"], observers=[BreakOff(2, Break(), teachers=True)]).fit()
    engine().fit()
    (teacher,) = (tmp_path / "cache" / "teachers").glob("resnet14-*/")
    assert [step for step, _ in logged(teacher)["loss"]] == [1, 2, 3]
    assert curves(teacher) == measured(teacher)


def test_after_an_error_of_the_run_the_log_is_closed_and_complete(engine, tmp_path):
    with pytest.raises(TrainingError, match=r"exploding\.bang = nan"):
        engine([Exploding(), "tensorboard"]).fit()
    assert plugin._writers == {}
    assert [step for step, _ in logged(tmp_path / "run")["terms/exploding.bang"]] == [1]
    assert curves(tmp_path / "run") == measured(tmp_path / "run")


@pytest.mark.slow
def test_what_is_logged_can_be_seen_while_the_run_goes_on(engine, own_cache):
    seen = []

    class Watch:
        @hookimpl(trylast=True)
        def kdengine_after_epoch(self, run, record):
            seen.append(curves(run.folder.path) == measured(run.folder.path))

    engine(observers=[Watch()], epochs=2).fit()
    assert seen == [True] * 4, "two epochs of the teacher and two of the student"


@pytest.mark.slow
def test_runs_in_one_process_at_the_same_time_have_a_log_each(engine, tmp_path):
    class Nested:
        """Another run, from its beginning to its end, between two epochs of the first one."""

        @hookimpl
        def kdengine_after_epoch(self, run, record):
            if run.settings.teacher and record["epoch"] == 1:
                engine(["st", "tensorboard"], out=tmp_path / "inner", epochs=2).fit()
                assert list(plugin._writers) == [run.folder.path]

    engine(observers=[Nested()]).fit()
    assert plugin._writers == {}
    for folder, term, epochs in ((tmp_path / "run", "terms/rkd.angle", 3), (tmp_path / "inner", "terms/st.soft", 2)):
        assert curves(folder) == measured(folder)
        assert len(logged(folder)[term]) == epochs
        assert len(list((folder / "tensorboard").iterdir())) == 1


def test_of_several_processes_only_the_first_one_writes(tmp_path):
    other = SimpleNamespace(runtime=SimpleNamespace(is_main=False), folder=RunFolder(tmp_path))
    plugin.kdengine_before_fit(other)
    plugin.kdengine_after_epoch(other, {"epoch": 1})
    plugin.kdengine_after_fit(other, None)
    plugin.kdengine_on_error(other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_changes_nothing_of_what_is_computed(engine, tmp_path):
    def numbers(plugins, name):
        rows = engine(plugins, out=tmp_path / name, epochs=2).fit().history
        return [(row["loss"], row["terms"], row["test_loss"]) for row in rows]

    assert numbers(["rkd"], "without") == numbers(["rkd", "tensorboard"], "with")


@pytest.mark.slow
def test_from_the_command_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fast = [piece for name, value in FAST.items() for piece in ("-o", f"train.{name}={value}")]
    pair = ["--teacher", "resnet14", "--student", "resnet8"]
    plugins = ["--plugin", "rkd", "--plugin", "tensorboard"]
    assert main(["run", *plugins, *pair, "--data", DATA, "--epochs", "1", *fast]) == 0, capfd.readouterr().err
    (folder,) = (tmp_path / "runs").iterdir()
    assert curves(folder) == measured(folder)
    assert "terms/rkd.angle" in curves(folder)


def test_without_tensorboard_the_plugin_is_broken_and_says_what_to_install(monkeypatch):
    gone = [name for name in sys.modules if name.startswith(("kdplugin_tensorboard", "torch.utils.tensorboard"))]
    for name in gone:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    registry = Registry()
    with pytest.raises(PluginError, match=r"'tensorboard' of kdplugin-tensorboard .* is broken: .*pip install tensorboard"):
        registry.methods("tensorboard")
    assert [found.name for found in registry.methods("rkd")] == ["rkd"]

import json
import os
import signal
import subprocess
import sys
import textwrap
import tomllib

import pytest
import torch
from safetensors.torch import load_file

from kdengine import Engine, SettingsError, hookimpl
from kdengine.config.settings import Settings
from kdengine.runs.comparison_folder import check_new
from kdengine.runs.start import Fresh
from kdengine.storage.runfolder import RunFolder

FAST = {"data": "digits@train=16@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}
SETTINGS = {"plugins": ["fitnet", "st"], "epochs": 2, "options": {"fitnet": {"hint_epochs": 1}}, **FAST}
TIMES = ("seconds", "images_per_second")

# A run of three epochs that ends itself after a given one; drop_rate makes random numbers matter while it trains.
CODE = """
import os, signal, sys
from kdengine import Engine, Registry, hookimpl
from kdengine.networks.models import ModelSource

class End:
    @hookimpl(trylast=True)
    def kdengine_after_step(self, run, done):
        if len(run.lane.history) == EPOCH and done == 2:
            os.kill(os.getpid(), SIGNAL)

EPOCH, SIGNAL = int(sys.argv[2]), int(sys.argv[3])
pair, weights = ("resnet14", "resnet8@drop_rate=0.5"), sys.argv[4]
Engine(*pair, out=sys.argv[1], observers=[End()], teacher_weights=weights, **SETTINGS).fit()
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a teacher."""
    return Engine(None, "resnet14", epochs=1, **FAST, out=tmp_path_factory.mktemp("teacher") / "run").fit().folder


def engine(out, teacher, **more):
    return Engine("resnet14", "resnet8@drop_rate=0.5", out=out, teacher_weights=teacher, **SETTINGS, **more)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, teacher):
    return engine(tmp_path_factory.mktemp("undisturbed") / "run", teacher).fit()


def ended(out, teacher, epoch, signal_number, minutes):
    code = textwrap.dedent(CODE).replace("**SETTINGS", f"save_minutes={minutes}, **{SETTINGS!r}")
    command = [sys.executable, "-W", "ignore", "-c", code, str(out), str(epoch), str(int(signal_number)), str(teacher)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


def same_files(one, other):
    for name in ("student.safetensors", "student-best.safetensors", "connectors.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name


@pytest.mark.slow
@pytest.mark.parametrize(("epoch", "minutes"), [(1, 10), (2, 1e-9)], ids=["after-an-epoch", "within-an-epoch"])
def test_a_killed_run_goes_on_and_ends_bit_identical_to_an_undisturbed_one(epoch, minutes, tmp_path, teacher, undisturbed):
    out = tmp_path / "run"
    assert ended(out, teacher, epoch, signal.SIGKILL, minutes).returncode == -signal.SIGKILL
    state = RunFolder(out).load_state()
    assert (len(state["history"]), state["meter"]["steps"]) == (epoch, 0 if minutes == 10 else 2)
    assert (out / "run.toml").is_file()
    assert not (out / "result.json").exists()
    assert rows(out) == rows(undisturbed.folder)[:epoch]
    result = Engine.resume(out).fit()
    assert rows(out) == rows(undisturbed.folder)
    same_files(out, undisturbed.folder)
    assert (result.top1, result.best_top1) == (undisturbed.top1, undisturbed.best_top1)
    assert result.facts["student"]["best_epoch"] == undisturbed.facts["student"]["best_epoch"]


def test_a_resumed_run_counts_the_seconds_of_its_first_part_too(tmp_path, teacher):
    class Stop:
        @hookimpl(trylast=True)
        def kdengine_after_epoch(self, run, record):
            self.before = run.lane.seconds
            raise KeyboardInterrupt

    stop = Stop()
    with pytest.raises(KeyboardInterrupt):
        engine(tmp_path / "run", teacher, observers=[stop]).fit()
    result = Engine.resume(tmp_path / "run").fit()
    assert result.facts["student"]["seconds"] > stop.before > 0


def test_what_a_run_leaves_behind(undisturbed):
    names = {path.name for path in undisturbed.folder.iterdir()}
    tensors = {"student.safetensors", "student-best.safetensors", "connectors.safetensors"}
    assert names == {"run.toml", "manifest.json", "metrics.jsonl", "result.json", *tensors}


def test_the_metrics_agree_with_the_result_and_with_the_history(undisturbed):
    place = RunFolder(undisturbed.folder)
    student, found = place.result()["student"], place.metrics()
    assert found == list(undisturbed.history)
    assert [row["epoch"] for row in found] == [1, 2, 3]
    measured = [row["test_top1"] for row in found if "test_top1" in row]
    assert student["top1"] == measured[-1] == undisturbed.top1
    assert student["best_top1"] == max(measured) == undisturbed.best_top1
    assert student["top5"] == found[-1]["test_top5"]
    assert student["seconds"] >= sum(row["seconds"] for row in found) - 0.01


def test_run_toml_holds_every_setting_and_every_option_and_repeats_the_run(undisturbed, tmp_path):
    values = tomllib.loads((undisturbed.folder / "run.toml").read_text())
    assert values["options"]["st"]["temperature"] == 4.0
    assert values["options"]["fitnet"]["hint_epochs"] == 1
    assert values["train"]["momentum"] == 0.9
    settings = Settings.checked(values)
    assert Engine.of(settings, tmp_path / "again").settings == settings
    again = Engine.of(settings, tmp_path / "again").fit()
    assert rows(again.folder) == rows(undisturbed.folder)
    same_files(again.folder, undisturbed.folder)
    assert (again.folder / "run.toml").read_text() == (undisturbed.folder / "run.toml").read_text()


def test_the_manifest_says_what_a_run_was_made_with(undisturbed):
    manifest = RunFolder(undisturbed.folder).manifest()
    assert manifest["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert manifest["device"] == "cpu"
    assert manifest["precision"] == "fp32"
    assert manifest["data"]["fingerprint"]
    assert manifest["argv"]


def test_a_finished_run_and_a_folder_without_a_run_cannot_be_resumed(undisturbed, tmp_path):
    with pytest.raises(SettingsError, match="is finished"):
        Engine.resume(undisturbed.folder)
    with pytest.raises(SettingsError, match=r"not a run folder: it has no run\.toml\. Name the folder of a run\."):
        Engine.resume(tmp_path)
    (tmp_path / "trial-1" / "st").mkdir(parents=True)
    for file in ("comparison.json", "trial-1/st/run.toml"):
        (tmp_path / file).touch()
    with pytest.raises(SettingsError, match=r"such as '.*trial-1.st'; a comparison is resumed by 'kdengine compare --resume'"):
        Engine.resume(tmp_path)


def test_a_run_of_modules_cannot_be_resumed_by_name(tmp_path):
    class Stop:
        @hookimpl
        def kdengine_after_epoch(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Engine(
            None, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)), out=tmp_path, observers=[Stop()], **FAST
        ).fit()
    with pytest.raises(Exception, match="module of the caller's own"):
        Engine.resume(tmp_path).fit()


def test_two_runs_that_propose_one_name_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(student="resnet8")
    one, other = RunFolder("runs/x", proposed=True), RunFolder("runs/x", proposed=True)
    for place in (one, other):
        place.check_new()
        place.begin(settings, {})
    assert (str(one.path), str(other.path)) == ("runs/x", "runs/x-2")
    assert other.settings() == settings


def test_a_run_does_not_take_a_folder_that_another_took_meanwhile(tmp_path):
    one, other = RunFolder(tmp_path / "x"), RunFolder(tmp_path / "x")
    one.check_new()
    other.check_new()
    one.begin(Settings(student="resnet8"), {})
    with pytest.raises(SettingsError, match=r"already holds a run|in use"):
        other.begin(Settings(student="resnet8"), {})


def test_a_folder_that_cannot_be_made_is_refused_early(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match="is a file"):
        RunFolder(tmp_path / "file").check_new()
    with pytest.raises(SettingsError, match="not a writable folder"):
        RunFolder(tmp_path / "file" / "deeper" / "run").check_new()
    RunFolder(tmp_path / "new" / "deeper").check_new()
    assert not (tmp_path / "new").exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    place = RunFolder(tmp_path)
    place.write_json("a.json", {"x": 1})
    with pytest.raises(TypeError):
        place.write_json("a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_somebody_trains_into_is_not_taken_and_its_lock_is_left(tmp_path):
    one, other = RunFolder(tmp_path / "x"), RunFolder(tmp_path / "x")
    one.take()
    with pytest.raises(SettingsError, match="in use"):
        other.take()
    other.free()
    assert (tmp_path / "x" / "state" / "lock").exists()
    one.free()
    assert not (tmp_path / "x" / "state").exists()


def test_weights_of_a_compiled_module_load_into_the_bare_one(tmp_path):
    compiled = torch.compile(torch.nn.Sequential(torch.compile(torch.nn.Linear(2, 2))))
    RunFolder(tmp_path).write_weights("student.safetensors", compiled.state_dict())
    torch.nn.Sequential(torch.nn.Linear(2, 2)).load_state_dict(load_file(tmp_path / "student.safetensors"))


def test_commands_that_a_message_gives_can_be_copied_whatever_the_folder_is_called(tmp_path):
    folder = tmp_path / "two words"
    folder.mkdir()
    (folder / "run.toml").touch()
    with pytest.raises(SettingsError, match=r"kdengine run --resume '/.*/two words'"):
        RunFolder(folder).check_new()


def test_a_run_and_a_comparison_do_not_share_a_folder(tmp_path):
    for name, file in (("run", "run.toml"), ("comparison", "comparison.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    with pytest.raises(SettingsError, match="holds a comparison, so no run can be made in it"):
        RunFolder(tmp_path / "comparison").check_new()
    with pytest.raises(SettingsError, match="holds a run, so no comparison can be made in it"):
        check_new(Fresh(), tmp_path / "run")

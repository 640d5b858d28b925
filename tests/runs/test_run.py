"""One fault at a time, in the middle of a run: it is told, what was computed is kept, and the run can go on."""

import json
import os
import re
import signal

import pytest
import torch
from safetensors.torch import load_file

from kdengine import Distiller, Engine, StorageError, TrainingError, hookimpl
from kdengine.storage.runfolder import RunFolder

FAST = {"data": "digits@train=16@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 2}
EPOCH = ("metrics.jsonl", "lane.pt")
WRITES = ("manifest.json", "run.toml", *EPOCH, *EPOCH, "student.safetensors", "student-best.safetensors", "result.json")
"""What a run of two epochs writes, in order."""


def engine(out, **more):
    return Engine(None, "resnet8", out=out, **FAST, **more)


def numbers(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return engine(tmp_path_factory.mktemp("whole") / "run").fit().folder


@pytest.fixture
def failing_write(monkeypatch):
    """Lets the n-th file of a run fail, as on a full disk; notes all their names."""
    replace, seen = os.replace, []

    def start(number):
        seen.clear()

        def replacing(source, target):
            seen.append(os.path.basename(target))
            if len(seen) == number:
                raise OSError(28, "No space left on device")
            replace(source, target)

        monkeypatch.setattr("kdengine.storage.writing.os.replace", replacing)
        return seen

    return start


def test_the_writes_of_a_run_are_these(failing_write, tmp_path):
    seen = failing_write(0)
    engine(tmp_path / "run").fit()
    assert tuple(seen) == WRITES


@pytest.mark.sample(4)
@pytest.mark.parametrize("number", range(1, len(WRITES) + 1), ids=[f"{n}-{name}" for n, name in enumerate(WRITES, 1)])
def test_a_write_that_fails_stops_the_run_with_the_reason_and_it_goes_on_to_the_same_end(
    number, failing_write, tmp_path, undisturbed
):
    out = tmp_path / "run"
    failing_write(number)
    with pytest.raises(StorageError, match=rf"{WRITES[number - 1]}' cannot be written: No space left on device") as caught:
        engine(out).fit()
    if number > 4:
        saved = r"(1 finished epoch is|[02] finished epochs are) saved\. To resume: kdengine run --resume"
        assert re.match(saved, caught.value.__notes__[0])
    failing_write(0)
    (Engine.resume(out) if (out / "run.toml").exists() else engine(out)).fit()
    assert numbers(out) == numbers(undisturbed)
    for name in ("student.safetensors", "student-best.safetensors"):
        one, other = load_file(out / name), load_file(undisturbed / name)
        assert all(torch.equal(one[key], other[key]) for key in other)
    assert sorted(os.listdir(out)) == sorted(os.listdir(undisturbed))


class Turning(Distiller):
    """Is no number any more at the seventh step."""

    name = "turning"
    steps = 0

    def forward(self, step):
        self.steps += 1
        return {"worm": step.student.logits.mean() * (float("nan") if self.steps == 7 else 1.0)}


def test_a_loss_that_turns_into_no_number_keeps_every_epoch_before(tmp_path):
    with pytest.raises(TrainingError, match=r"turning, epoch 4, step 1: .*turning.worm = nan") as caught:
        Engine(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)),
            "resnet8",
            [Turning()],
            out=tmp_path / "run",
            **{**FAST, "epochs": 5},
        ).fit()
    place = RunFolder(tmp_path / "run")
    assert caught.value.__notes__[-1].startswith("3 finished epochs are saved. To resume with changed settings: Engine.resume(")
    assert [row["epoch"] for row in place.metrics()] == [1, 2, 3]
    assert "turning.worm" in place.failure()
    assert len(place.load_state()["history"]) == 3


class Meddling(Distiller):
    """Writes into the teacher."""

    name = "meddling"
    unseen = False

    def build(self, pair):
        self.into = []

    def forward(self, step):
        for weight in self.into:
            (weight.data if self.unseen else weight.detach()).add_(1.0)
        return {"term": step.student.logits.square().mean()}


@pytest.mark.parametrize(
    ("unseen", "said"), [(False, "meddling: a step changed the teacher's"), (True, "have changed since the start")]
)
def test_a_teacher_that_is_written_to_stops_the_run_before_anything_of_that_is_kept(unseen, said, tmp_path):
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))

    class Meddler(Meddling):
        def build(self, pair):
            self.into = [teacher[1].bias]

    Meddler.unseen = unseen
    with pytest.raises(TrainingError, match=said):
        Engine(teacher, "resnet8", [Meddler()], out=tmp_path / "run", **FAST).fit()
    assert RunFolder(tmp_path / "run").metrics() == []


def test_two_runs_of_one_seed_come_to_the_same_numbers(tmp_path, undisturbed):
    engine(tmp_path / "again").fit()
    assert numbers(tmp_path / "again") == numbers(undisturbed)


def test_a_run_that_ends_by_an_error_can_be_tried_again_in_its_folder(tmp_path, undisturbed):
    class Failing:
        @hookimpl
        def kdengine_after_step(self, run):
            if len(run.lane.history) == 1:
                raise RuntimeError("a cable")

    with pytest.raises(RuntimeError, match="a cable"):
        engine(tmp_path / "run", observers=[Failing()]).fit()
    Engine.resume(tmp_path / "run").fit()
    assert numbers(tmp_path / "run") == numbers(undisturbed)


def test_a_stop_that_cannot_be_saved_says_so(tmp_path, monkeypatch, unheard_signals):
    class Full:
        @hookimpl
        def kdengine_after_step(self, run):
            if len(run.lane.history) == 1:
                monkeypatch.setattr("kdengine.storage.writing.os.replace", self.fail)
                signal.raise_signal(signal.SIGTERM)

        def fail(self, *_):
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"lane.pt' cannot be written: No space left"):
        engine(tmp_path / "run", observers=[Full()]).fit()
    assert len(RunFolder(tmp_path / "run").load_state()["history"]) == 1

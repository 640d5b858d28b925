"""A teacher store from the command line."""

import json

import pytest
import torch

TEACHER = ["--teacher", "resnet8", "--teacher-epochs", "1"]


@pytest.mark.slow
def test_teach_fills_and_run_and_compare_read(here, kdengine, small, monkeypatch):
    planned = kdengine("teach", *TEACHER, *small, "--teacher-store", "store", "--dry-run", "--json")
    assert planned.json["teacher_store"]["missing"] > 0
    assert not (here / "store").exists()
    said = kdengine("teach", *TEACHER, *small, "--teacher-store", "store")
    assert said.code == 0, said.err
    assert "4 batches are there: 2 epochs of seed 0. Teacher store 'store'" in said.out
    assert "all of them there" in said.out
    assert "seed 0, epoch 2/2: 2 batches" in said.err
    monkeypatch.setattr("kdengine.training.teacher.FrozenTeacher._forward", None)  # which cannot be called
    run = kdengine("run", "--plugin", "st", *TEACHER, "--student", "resnet8", *small, "--teacher-store", "store", "--json")
    assert run.code == 0, run.err
    plan = kdengine(
        "compare", "--methods", "st", *TEACHER, "--student", "resnet8", *small, "--teacher-store", "store", "--dry-run"
    )
    assert "Teacher store 'store'" in plan.out
    # what may change on resume may be said again
    assert json.loads((here / "store" / "store.json").read_text())["seeds"] == [0]


def test_a_plan_shows_the_size(here, kdengine, small):
    plan = ["run", "--plugin", "st", *TEACHER, "--student", "resnet8", *small, "--teacher-store", "store", "--dry-run"]
    assert "Teacher store 'store': up to" in kdengine(*plan).out
    assert kdengine(*plan, "--json").json["teacher_store"]["folder"] == "store"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teacher", "resnet8"], "--teacher-store FOLDER is missing"),
        (["--teacher-store", "store"], "--teacher SPEC is missing"),
        ([*TEACHER, "--teacher-store", "store", "-o", "teacher_store.budget=1KB"], "teacher_store.budget is 1000B"),
        ([*TEACHER, "--teacher-store", "store", "--out", "run"], "--out"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_said(flags, message, kdengine, small):
    said = kdengine("teach", *flags, *small)
    assert said.code == 2
    assert message in " ".join(said.err.split())


def test_a_plan_shows_a_unit_for_each_seed_and_leaves_no_trace(here, kdengine, small):
    plan = ["teach", *TEACHER, *small, "--teacher-store", "store", "--trials", "2", "--seed", "3", "--dry-run"]
    plan += ["--on", "local", "-o", "local.workers=2", "-o", "local.threads=1"]
    units = kdengine(*plan, "--json").json["units"]
    assert [(unit["unit"], unit["seed"], unit["threads"], unit["gpus"]) for unit in units] == [
        ("seed-3", 3, 1, 0),
        ("seed-4", 4, 1, 0),
    ]
    assert "2 units by the launcher 'local'. Nothing was filled." in kdengine(*plan).out
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_workers_fill_it_as_one_process_does_bit_for_bit(here, kdengine, small, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    flags = ["teach", *TEACHER, *small, "--trials", "2", "--teacher-store"]
    alone = kdengine(*flags, "alone")
    torch.set_num_threads(before)
    said = kdengine(*flags, "launched", "--on", "local", "-o", "local.workers=2")
    assert (alone.code, said.code) == (0, 0), said.err
    assert "8 batches are there: 2 epochs of seed 0, 1." in said.out
    assert "seed 1, epoch 2/2: 2 batches" in said.err
    assert contents(here / "launched") == contents(here / "alone")
    assert len(contents(here / "alone")) == 2 * 2 * 2  # seeds, epochs, and taps
    assert not list((here / "launched").glob(".units-*"))


def contents(store):
    """Every file that was kept, by its name."""
    assert json.loads((store / "store.json").read_text())["seeds"] == [0, 1]
    return {file.relative_to(store): file.read_bytes() for file in store.rglob("epoch-*/*")}


@pytest.mark.slow
def test_it_is_interrupted_gracefully(tmp_path, process, small):
    flags = [*TEACHER, *small[:2], "--epochs", "400", *small[4:], "--teacher-store", "store", "--teacher-epochs", "1"]
    said = process("teach", *flags, cwd=tmp_path, interrupt_at="epoch 2/400", env={"KDENGINE_CACHE": str(tmp_path / "cache")})
    assert said.code == 130
    assert "of 800 batches are there. To go on: run the same command again" in said.err
    assert "Traceback" not in said.err

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from kdengine.progress.bar import ProgressBar
from kdengine.progress.lanes import LanesProgress
from kdengine.storage.scores import Measure, Scoring

RECORD = {"epoch": 1, "phase": "joint", "test_top1": 87.5, "terms": {"task": 1.25, "st.soft": 0.5}, "seconds": 2.0}


@pytest.fixture
def run():
    return SimpleNamespace(
        title="resnet8 <- [a] (st) on digits",
        settings=SimpleNamespace(teacher="[a]", seed=3),
        total_epochs=12,
        lane=SimpleNamespace(history=[RECORD]),
        folder=SimpleNamespace(manifest=dict),
        runtime=SimpleNamespace(describe=lambda: {"device": "cpu", "precision": "fp32"}),
        again="kdengine run --resume [x]",
    )


def shown(run, terminal, *error):
    progress = ProgressBar()
    text = io.StringIO()
    progress.console = Console(file=text, force_terminal=terminal, width=160, markup=False, highlight=False)
    progress.kdengine_before_fit(run)
    progress.kdengine_after_step(run, 1, 2)
    progress.kdengine_after_epoch(run, RECORD)
    progress.kdengine_after_epoch(run, {**RECORD, "phase": "hint", "epoch": 2})
    if error:
        progress.kdengine_on_error(run, *error)
    else:
        progress.kdengine_after_fit(run, SimpleNamespace(facts={"student": {"top1": 87.5, "best_top1": 90.0}}))
    return text.getvalue()


def test_without_a_terminal_each_epoch_is_one_line(run):
    assert shown(run, terminal=False).splitlines() == [
        "Distilling resnet8 <- [a] (st) on digits: 12 epochs on cpu in fp32, seed 3",
        "  epoch  1/12  test 87.50 %  task 1.25  st.soft 0.5  2.0 s",
        "  epoch  2/12 hint  test 87.50 %  task 1.25  st.soft 0.5  2.0 s",
        "  resnet8 <- [a] (st) on digits: test top-1 87.50 % (best 90.00 %)",
    ]


def test_on_a_terminal_the_lines_stay_and_a_bar_below_them_goes_away(run):
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(run, terminal=True))
    assert "epoch 1/12 \N{BOX DRAWINGS HEAVY HORIZONTAL}" in text
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("  ")]
    assert lines == [
        "  epoch  1/12  test 87.50 %  task 1.25  st.soft 0.5  2.0 s",
        "  epoch  2/12 hint  test 87.50 %  task 1.25  st.soft 0.5  2.0 s",
        "  resnet8 <- [a] (st) on digits: test top-1 87.50 % (best 90.00 %)",
    ]


def test_terms_are_not_cut_on_a_narrow_terminal(run):
    record = {**RECORD, "terms": {f"method-{number}.term": 0.125 for number in range(9)}}
    progress, text = ProgressBar(), io.StringIO()
    progress.console = Console(file=text, force_terminal=True, width=40, markup=False, highlight=False)
    progress.kdengine_before_fit(run)
    progress.kdengine_after_epoch(run, record)
    progress.kdengine_on_error(run, ValueError())
    assert "method-7.term 0.125  method-8.term 0.125  2.0 s" in text.getvalue()


def test_an_interruption_says_how_to_resume_and_another_error_leaves_that_to_the_caller(run):
    assert shown(run, False, KeyboardInterrupt()).endswith(
        "Interrupted; 1 finished epoch is saved. To resume: kdengine run --resume [x]\n"
    )
    assert "To resume" not in shown(run, False, ValueError("x"))


def test_another_task_is_reported_by_its_headline_in_its_unit(run):
    rmse = Scoring("depth", (Measure("rmse", "RMSE", higher_is_better=False),))
    run.folder = SimpleNamespace(manifest=lambda: {"task": rmse.to_dict()})
    progress, lanes = ProgressBar(), LanesProgress()
    text = io.StringIO()
    progress.console = lanes.console = Console(file=text, width=160, markup=False, highlight=False)
    run.folder.path = Path("runs/trial-1/st")
    run.lane.name = "st"
    record = {**RECORD, "val_rmse": 0.5, "test_rmse": 0.25}
    for observer in (progress, lanes):
        observer.kdengine_before_fit(run)
        observer.kdengine_after_epoch(run, record)
    progress.kdengine_after_fit(run, SimpleNamespace(facts={"student": {"rmse": 0.25, "best_rmse": 0.125}}))
    progress.kdengine_after_fit(run, SimpleNamespace(facts={"student": {"rmse": None, "best_rmse": None}}))
    lines = text.getvalue().splitlines()
    assert "  epoch  1/12  val 0.5000  test 0.2500  task 1.25  st.soft 0.5  2.0 s" in lines
    assert "  trial-1 st: epoch  1/12  val 0.5000  test 0.2500  task 1.25  st.soft 0.5  2.0 s" in lines
    title = "  resnet8 <- [a] (st) on digits"
    assert lines[-2:] == [f"{title}: test RMSE 0.2500 (best 0.1250)", f"{title}: nothing was measured"]

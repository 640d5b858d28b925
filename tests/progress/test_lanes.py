import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from kdengine.progress.lanes import LanesProgress
from kdengine.progress.lines import label_of_run

RECORD = {"epoch": 1, "phase": "joint", "test_top1": 87.5, "terms": {"task": 1.25, "st.soft": 0.5}, "seconds": 2.0}


def run_of(name, trial="trial-1"):
    return SimpleNamespace(
        title=f"resnet8 <- resnet32 ({name}) on digits",
        settings=SimpleNamespace(teacher="resnet32", student="resnet8", seed=3),
        total_epochs=12,
        lane=SimpleNamespace(history=[], name=name),
        folder=SimpleNamespace(manifest=dict, path=Path("runs") / trial / name),
        again="kdengine compare --resume runs",
        can_save_within_epochs=False,
    )


@pytest.fixture
def screen():
    """An observer on a terminal of 80 columns and 12 lines, which is not redrawn by the clock; and what it wrote."""
    progress, text = LanesProgress(), io.StringIO()
    progress.console = Console(file=text, force_terminal=True, width=80, height=12, markup=False, highlight=False)
    return progress, text


def table_of(progress):
    """The lines of the table as it is now."""
    console = Console(file=io.StringIO(), width=80)
    console.print(progress._table())
    return console.file.getvalue().splitlines()


def test_all_lanes_stand_in_one_table_that_fits_80_columns(screen):
    progress, text = screen
    runs = [run_of("plain"), run_of("st.alpha=0.1,st.temperature=10,at.power=2,at.beta=1000")]
    for run in runs:
        progress.kdengine_before_fit(run)
    progress.kdengine_after_step(runs[0], 3, 4)
    runs[1].lane.history.append(RECORD)
    progress.kdengine_after_epoch(runs[1], RECORD)
    progress.kdengine_after_epoch(runs[1], {**RECORD, "test_top1": 80.0})
    lines = table_of(progress)
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["lane", "epoch", "test", "top-1", "best", "loss", "time"]
    assert lines[1].split()[:3] == ["trial-1", "plain", "0/12"]
    assert "80.00 %  87.50 %  1.75   4 s" in lines[2]
    assert "1/12" in lines[2]
    for run in runs:
        progress.kdengine_after_fit(run, None)
    assert "trial-1: epoch" not in text.getvalue()
    assert "87.50 %" in text.getvalue(), "the table is left where it was drawn"


def test_a_failed_lane_says_why_and_the_others_go_on(screen):
    progress, _ = screen
    runs = [run_of("plain"), run_of("st")]
    for run in runs:
        progress.kdengine_before_fit(run)
    progress.kdengine_on_error(runs[1], ValueError("the loss\nis no longer finite"))
    assert table_of(progress)[3:] == ["trial-1 st failed: the loss is no longer finite"]
    progress.kdengine_after_fit(runs[0], None)
    assert table_of(progress)[1:] == [], "the next trial begins with a table of its own"


def test_lanes_that_do_not_fit_on_the_screen_are_counted(screen):
    progress, _ = screen
    runs = [run_of(f"lane-{number}") for number in range(20)]
    for run in runs:
        progress.kdengine_before_fit(run)
    progress.kdengine_after_fit(runs[0], None)
    lines = table_of(progress)
    assert len(lines) == 9
    assert "trial-1 lane-0 " not in "".join(lines)
    assert lines[-1].strip() == "and 13 more lanes"
    for run in runs[1:]:
        progress.kdengine_after_fit(run, None)


def test_an_interruption_leaves_the_table_and_says_once_how_to_resume(screen):
    progress, text = screen
    runs = [run_of("plain"), run_of("st")]
    for run in runs:
        progress.kdengine_before_fit(run)
    for run in runs:
        progress.kdengine_on_error(run, KeyboardInterrupt())
    assert text.getvalue().count("To resume: kdengine compare --resume runs") == 1


def test_a_lane_is_named_with_its_trial_and_with_its_student_where_there_are_several():
    run = run_of("st")
    assert label_of_run(run) == "trial-1 st"
    run.folder.path = Path("runs") / "trial-2" / "resnet14" / "st"
    assert label_of_run(run) == "trial-2 resnet14 st"
    run.folder.path = Path("cache") / "teachers" / "resnet8-1"
    assert label_of_run(run) == "resnet8"

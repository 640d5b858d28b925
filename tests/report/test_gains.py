import pytest

from kdengine.report.gains import GAIN, LOSS, MOST, OPEN, draw_gains
from kdengine.report.palette import GROUND


@pytest.fixture
def drawn(run_folder, tmp_path):
    """The panels over lanes with a score for each trial, and their lines by their ids."""

    def draw(lanes, **facts):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "comparison.json").write_text("{}")
        for label, scores in lanes.items():
            for seed, score in enumerate(scores):
                state = {"failed": "nan"} if score is None else {"seconds": 3.0 if label == "rkd" else 2.0}
                run_folder(
                    f"out/trial-{seed + 1}/{label}", [] if score is None else [score], label, seed=seed, **state, **facts
                )
        figure = draw_gains([tmp_path / "out"])
        return figure, {line.get_gid(): line for line in figure.axes[0].lines if line.get_gid()} if figure else {}

    return draw


LANES = {"plain": [70.0, 71.0, 72.0], "rkd": [73.0, 74.1, 75.2], "st": [72.0, 70.0, 73.0], "at": [60.0, 61.1, 62.0]}


def test_every_method_is_a_point_in_its_interval_that_shows_whether_it_is_a_gain(drawn):
    figure, lines = drawn(LANES)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["rkd", "st", "at"]
    assert lines["gain-0"].get_xdata() == pytest.approx([3.1])
    low, high = lines["interval-0"].get_xdata()
    assert 0 < low < 3.1 < high
    assert [lines[f"gain-{number}"].get_markeredgecolor() for number in range(3)] == [GAIN, OPEN, LOSS]
    assert [lines[f"gain-{number}"].get_markerfacecolor() for number in range(3)] == [GAIN, GROUND, LOSS]
    assert figure.axes[0].get_xlabel() == "gain in top-1, points"
    left, right = figure.axes[0].get_xlim()
    assert left < -9 < 0 < high < right


def test_the_cost_of_a_step_stands_beside_it(drawn):
    figure, _ = drawn(LANES)
    bars = {bar.get_gid(): bar.get_width() for bar in figure.axes[1].patches}
    assert bars == {"step-0": 1.5, "step-1": 1.0, "step-2": 1.0}
    assert [text.get_text() for text in figure.axes[1].texts] == ["1.50", "1.00", "1.00"]


def test_a_failed_method_has_a_row_that_says_so(drawn):
    figure, lines = drawn({**LANES, "at": [None] * 3})
    assert "failed" in [text.get_text() for text in figure.axes[0].texts]
    assert "gain-2" not in lines


def test_one_trial_has_points_without_intervals(drawn):
    _, lines = drawn({"plain": [70.0], "rkd": [72.0]})
    assert set(lines) == {"gain-0"}
    assert lines["gain-0"].get_markerfacecolor() == GROUND


def test_of_many_methods_the_best_are_drawn(drawn):
    figure, lines = drawn({"plain": [70.0], **{f"m{number}": [70.0 + number] for number in range(MOST + 3)}})
    assert len(lines) == MOST
    assert figure.axes[0].get_yticklabels()[0].get_text() == f"m{MOST + 2}"


def test_without_a_gain_there_is_no_picture(drawn, run_folder):
    assert drawn({"plain": [None], "rkd": [70.0]})[0] is None
    assert draw_gains([run_folder("alone")]) is None


def test_labels_with_dollars_can_be_drawn(drawn, tmp_path):
    figure, _ = drawn({"plain": [70.0], r"a$\b$": [72.0]})
    figure.savefig(tmp_path / "a.png")

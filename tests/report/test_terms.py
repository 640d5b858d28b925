import pytest

from kdengine.report.curves import Plot, draw_curves
from kdengine.report.pastrun import find_runs


@pytest.fixture
def panels(run_folder):
    """The panels of terms of a long run and of a short one, whose terms are multiplied by a factor."""

    def draw(factor=1.0):
        folders = [run_folder("a", [10.0, 20.0, 30.0]), run_folder("b", method="at")]
        rows = (folders[1] / "metrics.jsonl").read_text()
        (folders[1] / "metrics.jsonl").write_text(rows.replace('"at.term": 2.0', f'"at.term": {2.0 * factor}'))
        plot = Plot(find_runs(folders))
        return [plot.terms(index).axes[0] for index in (0, 1)], plot.loss.note

    return draw


def test_all_panels_have_the_same_axes(panels):
    (one, other), note = panels()
    assert one.get_ylim() == other.get_ylim()
    assert one.get_xlim() == other.get_xlim() == (0.5, 3.5)
    assert note == "All panels have the same vertical axis."
    assert one.get_ylim()[0] < 2.0 / 3 < 4.0 < one.get_ylim()[1]


def test_a_longer_training_of_the_teacher_does_not_press_the_students_together(run_folder):
    teacher = run_folder("t", [float(value) for value in range(1, 31)], method="plain", student="resnet32")
    plot = Plot(find_runs([run_folder("a"), teacher]))
    assert [plot.terms(index).axes[0].get_xlim()[1] for index in (0, 1)] == [2.5, 30.5]


def test_terms_that_differ_widely_share_a_logarithmic_axis(panels):
    (one, other), note = panels(0.01)
    assert one.get_yscale() == other.get_yscale() == "log"
    assert one.get_ylim() == other.get_ylim()
    assert note == "All panels have the same vertical axis."


def test_terms_that_would_be_flat_lines_on_one_axis_have_axes_of_their_own_and_the_note_says_so(panels):
    (one, other), note = panels(1e-6)
    assert (one.get_yscale(), other.get_yscale()) == ("linear", "log")
    assert one.get_ylim() != other.get_ylim()
    assert note == "The vertical axes differ."


def test_no_legend_covers_a_line_and_every_panel_names_its_axis(run_folder):
    figure = draw_curves([run_folder("a"), run_folder("b", method="fitnet", hint=1)])
    figure.draw_without_rendering()
    for axes in figure.subfigs[1].axes:
        if axes.axison:
            assert axes.get_xlabel() == "epoch"
            assert axes.get_legend().get_window_extent().y1 < axes.get_window_extent().y0

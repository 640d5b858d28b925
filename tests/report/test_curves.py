import pytest

from kdengine.report.curves import Plot, draw_curves
from kdengine.report.palette import GROUND, LINES, MUTED, PLAIN
from kdengine.report.pastrun import find_runs
from kdengine.report.series import series_of


@pytest.fixture
def drawn():
    """The axes of one panel of scores over some folders, with its lines by their ids."""

    def draw(folders, split="test"):
        (axes,) = Plot(find_runs(folders)).scores(split).axes
        return axes, {line.get_gid(): line for line in axes.lines if line.get_gid()}

    return draw


def test_every_method_is_a_line_where_its_accuracy_was_measured(run_folder, drawn):
    _, lines = drawn([run_folder("a"), run_folder("b", [20.0, 35.0], method="fitnet", hint=3), run_folder("c", method="plain")])
    assert lines["s0-line"].get_xydata().tolist() == [[1, 30], [2, 50]]
    assert lines["s1-line"].get_xydata().tolist() == [[4, 20], [5, 35]]
    assert [lines[f"s{number}-line"].get_color() for number in range(3)] == [LINES[0], LINES[1], PLAIN]


def test_training_accuracy_has_a_panel_without_the_teacher(run_folder, drawn):
    axes, lines = drawn([run_folder("a")], "train")
    assert lines["s0-line"].get_ydata().tolist() == [35, 55]
    assert len(axes.lines) == 2


def test_the_teacher_is_a_dashed_horizontal_line(run_folder, drawn):
    axes, _ = drawn([run_folder("a"), run_folder("b", method="at")])
    (line,) = [line for line in axes.lines if not line.get_gid()]
    assert (list(line.get_ydata()), line.get_color()) == ([70.0, 70.0], MUTED)
    assert line.is_dashed()


def test_the_end_of_a_line_says_what_became_of_the_run(run_folder, drawn):
    folders = [run_folder("a"), run_folder("b", method="at", finished=False), run_folder("c", method="sp", failed="nan")]
    _, lines = drawn(folders)
    ends = [lines[f"s{number}-end"] for number in range(3)]
    assert [end.get_marker() for end in ends] == ["o", "o", "X"]
    assert [end.get_markerfacecolor() for end in ends] == [LINES[0], GROUND, LINES[2]]


def test_trials_are_a_mean_in_a_band(run_folder, drawn):
    axes, lines = drawn([run_folder("a", [30.0, 50.0]), run_folder("b", [40.0, 60.0], seed=1)])
    assert lines["s0-line"].get_ydata().tolist() == [35, 55]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(35 - 50**0.5)
    assert heights.max() == pytest.approx(55 + 50**0.5)


def test_long_curves_are_shown_where_they_differ_and_a_failed_one_ends_on_the_axis(run_folder, drawn):
    good = [1.0 + epoch if epoch < 20 else 60 + epoch % 5 for epoch in range(40)]
    axes, lines = drawn([run_folder("a", good), run_folder("b", good[:10], method="at", failed="nan")])
    floor = axes.get_ylim()[0]
    assert 50 < floor < 60
    assert lines["s1-end"].get_ydata().tolist() == [floor]


def test_a_longer_training_of_the_teacher_does_not_press_the_students_together(run_folder, drawn):
    teacher = run_folder("t", [float(value) for value in range(1, 61)], method="plain", student="resnet32")
    axes, _ = drawn([run_folder("a"), teacher])
    assert axes.get_xlim()[1] < 4


def test_the_legend_is_ordered_by_the_last_accuracy_and_leaves_nobody_out(run_folder):
    folders = [
        run_folder("a", [30.0, 40.0]),
        run_folder("b", [], method="at", finished=False),
        run_folder("c", [45.0, 50.0], method="plain"),
        run_folder("d", [48.0], method="sp", failed="nan"),
    ]
    (legend,) = draw_curves(folders).subfigs[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "70.00  resnet32, the teacher",
        "50.00  plain",
        "48.00  sp (failed)",
        "40.00  st",
        "\N{EN DASH}  at (unfinished)",
    ]


def test_every_method_has_a_panel_with_all_its_terms(run_folder):
    figure = draw_curves([run_folder("a"), run_folder("b", method="fitnet", hint=1)])
    panels = [axes for axes in figure.subfigs[1].axes if axes.axison]
    assert [panel.get_title(loc="left") for panel in panels] == ["st", "fitnet"]
    assert [line.get_label() for line in panels[1].lines[:3]] == ["fitnet.hint", "task", "fitnet.term"]
    assert panels[1].lines[3].get_xdata()[0] == 1.5  # where the hint phase ends


def test_a_term_is_not_drawn_across_the_end_of_a_phase(run_folder):
    folder = run_folder("a", [1.0, 2.0, 3.0, 4.0])
    rows = (folder / "metrics.jsonl").read_text()
    for epoch in (1, 2):
        rows = rows.replace(f'"epoch": {epoch}, "seconds"', f'"epoch": {epoch}, "chain_step": 1, "seconds"')
    (folder / "metrics.jsonl").write_text(rows)
    (axes,) = Plot(find_runs([folder])).terms(0).axes
    assert [line.get_xdata().tolist() for line in axes.lines[:2]] == [[1, 2], [3, 4]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["task", "st.term"]


def test_a_single_epoch_is_a_point_at_a_whole_number(run_folder):
    (axes,) = Plot(find_runs([run_folder("a", [30.0], finished=False)])).terms(0).axes
    axes.figure.draw_without_rendering()
    assert axes.lines[0].get_marker() == "."
    assert [tick for tick in axes.get_xticks() if 0.5 < tick < 1.5] == [1.0]


def test_one_run_is_drawn_in_one_row(run_folder):
    figure = draw_curves([run_folder("a")])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Test top-1, %", "Training top-1, %", "Terms of the loss"]


def test_terms_of_different_sizes_are_drawn_on_a_logarithmic_axis(run_folder):
    folder = run_folder("a")
    rows = (folder / "metrics.jsonl").read_text()
    plot = Plot(find_runs([folder]))
    assert plot.terms(0).axes[0].get_yscale() == "linear"
    (folder / "metrics.jsonl").write_text(rows.replace('"st.term": 2.0', '"st.term": 0.002'))
    assert Plot(find_runs([folder])).terms(0).axes[0].get_yscale() == "log"


@pytest.mark.parametrize("state", [{"finished": False}, {"failed": "nan"}])
def test_runs_without_a_single_epoch_can_be_drawn(run_folder, state, tmp_path):
    draw_curves([run_folder("a", [], **state)]).savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_names_with_dollars_and_underscores_are_drawn_as_they_are(run_folder, tmp_path):
    figure = draw_curves([run_folder("a", method=r"a$\b$"), run_folder("b", method="_c")])
    figure.savefig(tmp_path / "a.png")
    assert len(figure.subfigs[0].legends[0].get_texts()) == 3


def test_a_task_of_its_own_names_the_panels_and_ranks_the_lowest_first(run_folder, depth):
    folders = [run_folder("a", [0.5, 0.0], task=depth), run_folder("b", [0.75, 0.25], method="at", task=depth)]
    plot = Plot(find_runs([*folders, run_folder("c", [], method="sp", task=depth, finished=False)]))
    assert [plot.series[index].label for index in plot.ranked] == ["st", "at", "sp"]
    assert (plot.title("test"), plot.key) == ("Test RMSE", "last test RMSE")
    labels = [text.get_text() for text in plot.everything().subfigs[0].legends[0].get_texts()]
    assert labels == ["70.0000  resnet32, the teacher", "0.0000  st", "0.2500  at", "\N{EN DASH}  sp (unfinished)"]


def test_where_a_low_score_is_better_long_curves_are_cut_off_at_the_top(run_folder, drawn, depth):
    good = [9.0 - epoch / 10 if epoch < 20 else 0.5 + epoch % 5 / 100 for epoch in range(40)]
    axes, lines = drawn([run_folder("a", good, task=depth), run_folder("b", good[:10], method="at", failed="nan", task=depth)])
    bottom, top = axes.get_ylim()
    assert bottom < 0.5
    assert 5.54 < top < 6, "the scores on training images, which share the axis, end 5 higher"
    assert lines["s1-end"].get_ydata().tolist() == [top]


def test_test_and_training_have_the_same_vertical_axis(run_folder):
    plot = Plot(find_runs([run_folder("a", [20.0, 30.0]), run_folder("b", [25.0, 60.0], method="at")]))
    limits = [plot.scores(split).axes[0].get_ylim() for split in ("test", "train")]
    assert limits[0] == limits[1]
    assert limits[0][0] < 20
    assert limits[0][1] > 70, "the teacher's line is on it"


def test_no_band_leaves_the_range_of_a_percentage(run_folder, tmp_path):
    for seed, score in enumerate((0.0, 0.0, 3.0)):
        run_folder(f"all/{seed}", [score, 100.0 - score], seed=seed)
    (series,) = series_of(find_runs([tmp_path / "all"]))
    curve = series.scores("test")
    assert min(curve.low) == 0.0
    assert max(curve.high) == 100.0
    assert curve.high[0] > curve.mean[0] > 0

from types import SimpleNamespace

from kdengine.report.drawing import new_figure, plain_text, styles_of, term_colours
from kdengine.report.palette import PLAIN


def of(*roles):
    return [SimpleNamespace(role=role) for role in roles]


def test_sixteen_methods_and_the_plain_student_look_different():
    styles = styles_of(of("plain", *["method"] * 16))
    assert len({(style.colour, style.dashes) for style in styles}) == 17
    assert styles[0].colour == PLAIN
    assert all(style.colour != PLAIN for style in styles[1:])


def test_a_teachers_own_training_takes_no_colour_from_the_methods():
    assert styles_of(of("teacher", "method"))[1] == styles_of(of("method"))[0]


def test_the_task_has_the_colour_of_plain_training():
    colours = term_colours(["st.soft", "task"])
    assert colours["task"] == PLAIN != colours["st.soft"]


def test_a_dollar_is_a_dollar():
    figure = new_figure(2, 2)
    figure.text(0, 0, plain_text(r"a$\frac$ b"))
    figure.draw_without_rendering()


def test_figures_leave_nothing_behind():
    from matplotlib._pylab_helpers import Gcf

    new_figure(2, 2)
    assert Gcf.get_all_fig_managers() == []

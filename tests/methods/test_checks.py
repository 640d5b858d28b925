import pytest
import torch
from torch import nn

from kdengine import Distiller, Pair, SettingsError, TapError, Trace, TrainingError
from kdengine.methods.checks import TAKES, check_contract, check_shapes, check_unwritten


def pair(student, teacher):
    sides = [Trace({"tap": torch.empty(shape, device="meta")}) for shape in (student, teacher)]
    return Pair(*sides, 10, 100, lambda spec: nn.Identity(), [("tap", "tap")])


def method(kind):
    class Method(Distiller):
        name = "method"
        takes = kind

        def forward(self, step):
            return {}

    return Method()


FITTING = {
    "maps": [((2, 3, 4, 4), (2, 5, 8, 8))],
    "vectors": [((2, 3), (2, 5))],
    "logits": [((2, 3), (2, 3))],
    "features": [((2, 3), (2, 3, 4, 4)), ((2, 7, 5), (2, 5))],
}
UNFIT = {
    "maps": [((2, 3), (2, 3, 4, 4)), ((2, 3, 4, 4), (2, 9, 3))],
    "vectors": [((2, 3), (2, 3, 4, 4)), ((2, 3, 4), (2, 3))],
    "logits": [((2, 3), (2, 4)), ((2, 3, 4, 4), (2, 3, 4, 4))],
    "features": [((2,), (2, 3)), ((2, 3), (2, 3, 4, 5, 6))],
}


def test_every_kind_is_tried():
    assert set(FITTING) == set(UNFIT) == set(TAKES)


@pytest.mark.parametrize(("kind", "shapes"), [(kind, shapes) for kind, cases in FITTING.items() for shapes in cases])
def test_fitting_taps_pass(kind, shapes):
    check_shapes(method(kind), pair(*shapes))


@pytest.mark.parametrize(("kind", "shapes"), [(kind, shapes) for kind, cases in UNFIT.items() for shapes in cases])
def test_unfit_taps_are_refused_with_both_shapes_and_a_tap_that_fits(kind, shapes):
    with pytest.raises(TapError) as caught:
        check_shapes(method(kind), pair(*shapes))
    wanted = (f"method: at 'tap' the student has {list(shapes[0])} and the teacher {list(shapes[1])}", "method.taps='")
    assert all(piece in str(caught.value) for piece in wanted)


def test_a_method_that_says_nothing_checks_for_itself():
    check_shapes(method(None), pair((2,), (2, 3, 4, 5, 6)))


def test_names_without_a_comma_are_not_read_letter_by_letter():
    wrong = method(None)
    wrong.taps = "embedding"
    with pytest.raises(SettingsError, match=r"taps = 'embedding', but a tuple is needed: taps = \('embedding',\)"):
        check_contract(wrong)
    wrong.taps, wrong.needs = ("embedding",), "index"
    with pytest.raises(SettingsError, match=r"needs = \('index',\)\. This"):
        check_contract(wrong)


def test_a_write_into_what_was_recorded_of_the_student_is_refused():
    trace = Trace({"tap": torch.zeros(2)}, torch.zeros(2, 3))
    before = [trace.versions()]
    check_unwritten("mine", [trace], before)
    trace["tap"].add_(1)
    with pytest.raises(TrainingError, match=r"mine: forward modified 'tap' of the student in place.*clone"):
        check_unwritten("mine", [trace], before)

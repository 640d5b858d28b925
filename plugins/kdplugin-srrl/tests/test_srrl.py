import numpy as np
import pytest
import torch
from kdplugin_srrl import SRRL, Connector
from torch import nn

from kdengine import Head, ModelError, Pair, SettingsError, TapError
from kdengine.testing import DistillerContract, in_processes, make_step, tiny_pair
from kdengine.testing.bench import Bench


class TestContract(DistillerContract):
    method = "srrl"


class Networks:
    """What a pair knows of a teacher with this classifier."""

    def __init__(self, classifier):
        self.classifier = classifier

    def teacher_head(self):
        return Head(lambda: self.classifier)


def srrl(step, classifier, **options):
    method = SRRL(**options)
    method.build(Pair(step.student, step.teacher, 10, 100, lambda spec: None, step.names, networks=Networks(classifier)))
    return method


def step_of(student, teacher):
    return make_step({"embedding": student}, {"embedding": teacher})


def numbers(tensor):
    return tensor.detach().double().numpy()


def formula(s, t, method, classifier, rectified):
    """Both terms, written out: s [B, C, N] at N positions, t [B, D]."""
    mix, gain, shift = (numbers(value) for value in method.connectors[0].parameters())
    mixed = np.einsum("bcn,dc->bdn", s, mix[:, :, 0, 0])
    mean, variance = mixed.mean((0, 2), keepdims=True), mixed.var((0, 2), keepdims=True)
    mixed = (mixed - mean) / np.sqrt(variance + 1e-5) * gain[:, None] + shift[:, None]
    made = (np.maximum(mixed, 0) if rectified else mixed).mean(2)
    weight, bias = (numbers(value) for value in classifier.parameters())
    weight = weight.reshape(len(weight), -1)
    logits = [features @ weight.T + bias for features in (made, t)]
    return ((made - t) ** 2).mean(), ((logits[0] - logits[1]) ** 2).mean()


@pytest.fixture
def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Linear(5, 7)


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2), (4, 6, 3)])
def test_both_terms_and_their_gradients_are_those_of_the_formula(shape, rectified, classifier, leaf, slope, agree, gradient):
    student, teacher = leaf(*shape, seed=1), leaf(4, 5, seed=2, rectified=rectified).detach()
    step = step_of(student, teacher)
    method = srrl(step, classifier)

    def laid_out(values):
        return values.transpose(0, 2, 1) if len(shape) == 3 else values.reshape(*shape[:2], -1)

    for place, term in enumerate(("feature", "logit")):
        loss = method(step)[term]
        values = lambda s, place=place: formula(laid_out(s), numbers(teacher), method, classifier, rectified)[place]  # noqa: E731
        agree(loss, values(numbers(student)))
        agree(gradient(loss, student), slope(values, numbers(student)), relative=1e-4)


def test_the_weights_are_options(classifier, leaf):
    step = step_of(leaf(4, 3), leaf(4, 5, seed=1).detach())
    one, other = srrl(step, classifier), srrl(step, classifier, feature=2.0, logit=0.5)
    other.load_state_dict(one.state_dict())
    first, second = one(step), other(step)
    assert second["feature"].item() == pytest.approx(2 * first["feature"].item(), rel=1e-6)
    assert second["logit"].item() == pytest.approx(0.5 * first["logit"].item(), rel=1e-6)


@pytest.mark.parametrize(("relu", "rectified"), [("always", True), ("never", False)])
def test_relu_can_be_forced(relu, rectified, classifier, leaf, agree):
    student, teacher = leaf(4, 3, seed=1), leaf(4, 5, seed=2, rectified=not rectified).detach()
    step = step_of(student, teacher)
    method = srrl(step, classifier, relu=relu)
    agree(method(step)["feature"], formula(numbers(student)[:, :, None], numbers(teacher), method, classifier, rectified)[0])


def test_the_first_batch_decides_about_the_relu_for_good(classifier, leaf):
    method = srrl(step_of(leaf(4, 3), leaf(4, 5)), classifier)
    method(step_of(leaf(4, 3), leaf(4, 5, rectified=True).detach()))
    again = srrl(step_of(leaf(4, 3), leaf(4, 5)), classifier)
    again.load_state_dict(method.state_dict())
    for each in (method, again):
        each(step_of(leaf(4, 3), leaf(4, 5).detach()))
        assert bool(each.connectors[0].rectified)


def test_the_classifier_is_the_teachers_as_it_is_now_and_has_no_parameters_here(classifier, leaf):
    step = step_of(leaf(4, 3), leaf(4, 5, seed=1).detach())
    method = srrl(step, classifier)
    before = method(step)["logit"].item()
    with torch.no_grad():
        classifier.weight.mul_(3)  # the teacher gets its weights after the connectors are built
    assert method(step)["logit"].item() == pytest.approx(9 * before, rel=1e-4)
    method(step)["logit"].backward()
    assert classifier.weight.grad is None
    assert [tuple(value.shape) for value in method.parameters()] == [(5, 3, 1, 1), (5,), (5,)]


def test_a_batch_of_one_uses_the_running_statistics(classifier, leaf):
    step = step_of(leaf(1, 3), leaf(1, 5, seed=1).detach())
    assert all(torch.isfinite(term) for term in srrl(step, classifier)(step).values())


def test_features_that_the_classifier_does_not_take_are_refused_with_a_tap_that_works(classifier, leaf):
    with pytest.raises(TapError, match=r"\[4, 6\], which its classifier does not take.*stage-1=embedding"):
        srrl(step_of(leaf(4, 3), leaf(4, 6)), classifier)


def test_an_unknown_relu_is_refused():
    with pytest.raises(SettingsError, match="relu"):
        SRRL(relu="sometimes")


def test_a_teacher_whose_logits_are_more_than_its_classifier_is_refused(doubled):
    teacher, student = tiny_pair()
    with pytest.raises(ModelError, match="more than what its classifier"):
        Bench("srrl", (doubled(teacher).eval(), student))


@pytest.mark.slow
def test_a_run_compares_with_the_teachers_own_logits_and_comes_closer(one_step):
    method = SRRL()
    (terms,), student, teacher, _ = one_step([method], teacher_name="resnet8x4")
    mix = method.connectors[0].change
    mixed = student["embedding"] @ numbers(mix.mix.weight)[:, :, 0, 0].T
    made = np.maximum((mixed - mixed.mean(0)) / np.sqrt(mixed.var(0) + 1e-5), 0)
    assert terms["srrl.feature"] == pytest.approx(((made - teacher["embedding"]) ** 2).mean(), rel=1e-3)
    assert set(terms) == {"task", "srrl.feature", "srrl.logit"}


def test_one_negative_feature_in_any_process_decides_for_all(leaf):
    teacher = leaf(4, 3).detach().abs()
    teacher[1, 0] = -1

    def one(rank, processes):
        connector = Connector(2, 3)
        connector(leaf(2, 2), teacher[rank::2], processes)
        return bool(connector.rectified)

    assert in_processes(2, one) == [False, False]
    teacher[1, 0] = 1
    assert in_processes(2, one) == [True, True]

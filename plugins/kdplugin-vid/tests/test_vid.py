import numpy as np
import pytest
import torch
from kdplugin_vid import VID, Gaussian, negative_log_likelihood

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [
    ((1, 3, 2, 2), (1, 3, 2, 2)),
    ((2, 4, 4, 4), (2, 3, 4, 4)),  # other widths
    ((2, 3, 6, 4), (2, 2, 3, 2)),  # a larger student
    ((2, 2, 2, 2), (2, 3, 4, 4)),  # a larger teacher
]


class TestContract(DistillerContract):
    method = "vid"


def pooled(maps, size):
    """Mean over the boxes that divide a map evenly."""
    out = np.zeros((*maps.shape[:2], *size))
    rows, columns = maps.shape[2] // size[0], maps.shape[3] // size[1]
    for i, j in np.ndindex(*size):
        out[:, :, i, j] = maps[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((2, 3))
    return out


def array(tensor):
    return tensor.detach().double().numpy()


def loss_of(student, teacher, weights, spread):
    """The formula, position by position and channel by channel."""
    size = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    student, teacher = pooled(student, size), pooled(teacher, size)
    total = 0.0
    for image, i, j in np.ndindex(len(student), *size):
        mean = weights[2] @ np.maximum(weights[1] @ np.maximum(weights[0] @ student[image, :, i, j], 0), 0)
        for channel, value in enumerate(teacher[image, :, i, j]):
            variance = np.log(1 + np.exp(spread[channel])) + 1e-5
            total += 0.5 * ((value - mean[channel]) ** 2 / variance + np.log(variance))
    return total / teacher.size


def vid(step, **options):
    """The method, with variances that differ from channel to channel."""
    torch.manual_seed(3)
    method = built(VID(**options), step)
    with torch.no_grad():
        for likelihood in method.likelihoods:
            likelihood.spread.add_(torch.randn_like(likelihood.spread))
    return method


def parts(likelihood):
    return [array(likelihood.mean[layer].weight)[:, :, 0, 0] for layer in (0, 2, 4)], array(likelihood.spread)


def step_of(student, teacher):
    return make_step({"stage2": student}, {"stage2": teacher})


@pytest.mark.parametrize("shapes", SHAPES)
def test_loss_and_all_gradients_are_those_of_the_formula(shapes, leaf, slope, agree, gradient):
    student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    step = step_of(student, teacher)
    method = vid(step)
    (likelihood,) = method.likelihoods
    weights, spread = parts(likelihood)
    s, t = array(student), array(teacher)
    loss = method(step)["likelihood"]
    agree(loss, loss_of(s, t, weights, spread))
    slopes = torch.autograd.grad(loss, [student, likelihood.spread, likelihood.mean[2].weight])
    agree(slopes[0], slope(lambda moved: loss_of(moved, t, weights, spread), s))
    agree(slopes[1], slope(lambda moved: loss_of(s, t, weights, moved), spread))
    agree(slopes[2][:, :, 0, 0], slope(lambda moved: loss_of(s, t, [weights[0], moved, weights[2]], spread), weights[1]))


def test_the_stages_are_summed(leaf, agree):
    student = {f"stage{side}": leaf(2, 3, side, side, seed=side) for side in (4, 2)}
    teacher = {f"stage{side}": leaf(2, 5, side, side, seed=side + 1).detach() for side in (4, 2)}
    step = make_step(student, teacher)
    method = vid(step)
    losses = [
        loss_of(array(student[name]), array(teacher[name]), *parts(likelihood))
        for name, likelihood in zip(student, method.likelihoods, strict=True)
    ]
    agree(method(step)["likelihood"], sum(losses))


@pytest.mark.parametrize(("options", "variance"), [({}, 5.0), ({"init_variance": 0.01}, 0.01), ({"init_variance": 1e4}, 1e4)])
def test_every_variance_starts_where_the_option_says(options, variance, leaf):
    method = built(VID(**options), step_of(leaf(2, 3, 4, 4), leaf(2, 6, 4, 4).detach()))
    assert method.likelihoods[0].variance_C.tolist() == pytest.approx([variance] * 6, rel=1e-3)


def test_the_variances_are_weights_that_an_optimizer_trains_and_a_checkpoint_holds(leaf):
    """mdistiller keeps them in a plain list, so that they stay 5 for ever."""
    step = step_of(leaf(4, 3, 4, 4).detach(), leaf(4, 2, 4, 4, seed=1).detach())
    method = built(VID(), step)
    assert "likelihoods.0.spread" in dict(method.named_parameters())
    assert "likelihoods.0.spread" in method.state_dict()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    method(step)["likelihood"].backward()
    optimizer.step()
    assert (method.likelihoods[0].variance_C < 4.999).all(), "the error is far below 5, so every variance must fall"


def test_the_best_variance_of_a_channel_is_its_mean_squared_error(leaf, gradient):
    """There, and only there, the likelihood is stationary: the loss is one of a distribution, not a scaled distance."""
    mean, teacher = leaf(4, 3, 5, 5).detach(), leaf(4, 3, 5, 5, seed=1).detach()
    error = (mean - teacher).square().mean((0, 2, 3))
    for factor, sign in ((1.0, 0), (2.0, 1), (0.5, -1)):
        variance = (factor * error).requires_grad_()
        found = gradient(negative_log_likelihood(mean, variance, teacher), variance)
        assert found.sign().tolist() == [sign] * 3 if sign else found.abs().max() < 1e-6


def test_variances_at_both_ends_stay_finite(leaf):
    likelihood = Gaussian(3, 2, 5.0)
    for spread in (-200.0, 200.0):
        with torch.no_grad():
            likelihood.spread.fill_(spread)
        loss = negative_log_likelihood(*likelihood(leaf(2, 3, 4, 4)), leaf(2, 2, 4, 4).detach())
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(value.grad).all() for value in likelihood.parameters())


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert VID().task_weight == 1
    assert list(VID().phases()) == []


def test_a_variance_below_the_floor_is_refused():
    with pytest.raises(SettingsError, match=r"greater than or equal to 0\.001"):
        VID(init_variance=0.0)


def test_taps_that_hold_no_maps_are_refused(leaf):
    step = make_step({"embedding": leaf(2, 64)}, {"embedding": leaf(2, 64)})
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        built(VID(), step)


@pytest.mark.slow
def test_the_likelihood_rises_in_training(distil):
    result = distil(["vid"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16, "lr": 0.1})
    losses = [record["terms"]["vid.likelihood"] for record in result.history]
    assert losses[-1] < 0.97 * losses[0]

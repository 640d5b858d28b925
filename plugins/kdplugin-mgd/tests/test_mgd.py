import numpy as np
import pytest
import torch
from kdplugin_mgd import MGD, draw_mask, generation_loss

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

SHAPES = [
    ((1, 3, 3, 3), (1, 3, 3, 3)),
    ((2, 3, 3, 2), (2, 4, 3, 2)),  # other widths
    ((2, 2, 6, 4), (2, 3, 3, 2)),  # a larger student
    ((2, 3, 2, 2), (2, 2, 4, 4)),  # a larger teacher
]


class TestContract(DistillerContract):
    method = "mgd"


def array(tensor):
    return tensor.detach().double().numpy()


def pooled(maps, size):
    """Mean over the boxes that divide a map evenly."""
    out = np.zeros((*maps.shape[:2], *size))
    rows, columns = maps.shape[2] // size[0], maps.shape[3] // size[1]
    for i, j in np.ndindex(*size):
        out[:, :, i, j] = maps[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean((2, 3))
    return out


def convolved(x, layer):
    """Cross-correlation that keeps the size, one kernel position at a time."""
    weight, bias = array(layer.weight), array(layer.bias)
    margin, (height, width) = weight.shape[2] // 2, x.shape[2:]
    x = np.pad(x, [(0, 0), (0, 0), (margin, margin), (margin, margin)])
    out = np.zeros((len(x), len(weight), height, width)) + bias[:, None, None]
    for i, j in np.ndindex(*weight.shape[2:]):
        out += np.einsum("bchw,dc->bdhw", x[:, :, i : i + height, j : j + width], weight[:, :, i, j])
    return out


def loss_of(student, teacher, generator, mask):
    size = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    student, teacher = pooled(student, size), pooled(teacher, size)
    aligned = student if student.shape[1] == teacher.shape[1] else convolved(student, generator.align)
    first, _, second = generator.generate
    generated = convolved(np.maximum(convolved(aligned * mask, first), 0), second)
    return sum(float(((a - b) ** 2).sum()) for a, b in zip(generated, teacher, strict=True)) / len(teacher)


def step_of(student, teacher):
    return make_step({"stage3": student}, {"stage3": teacher})


def mgd(step, **options):
    torch.manual_seed(3)
    return built(MGD(**options), step)


def seeded_loss(method, step):
    """The loss with the masks of seed 5, and the first of these masks, drawn by torch itself."""
    torch.manual_seed(5)
    loss = method(step)["generation"]
    torch.manual_seed(5)
    images, channels = len(step.x), step.teacher["stage3"].shape[1]
    size = [min(sides) for sides in zip(step.student["stage3"].shape[2:], step.teacher["stage3"].shape[2:], strict=True)]
    shape = (images, channels, 1, 1) if method.options.over == "channels" else (images, 1, *size)
    return loss, np.where(torch.rand(shape).numpy() < method.options.mask, 0.0, 1.0)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("options", [{}, {"mask": 0.4, "over": "positions"}])
def test_loss_and_gradients_are_those_of_the_formula(shapes, options, leaf, slope, agree):
    student, teacher = leaf(*shapes[0], seed=1), leaf(*shapes[1], seed=2).detach()
    step = step_of(student, teacher)
    method = mgd(step, alpha=0.5, **options)
    (generator,) = method.generators
    loss, mask = seeded_loss(method, step)
    s, t = array(student), array(teacher)
    agree(loss, 0.5 * loss_of(s, t, generator, mask))
    by_student, by_bias = torch.autograd.grad(loss, [student, generator.generate[2].bias])
    agree(by_student, slope(lambda moved: 0.5 * loss_of(moved, t, generator, mask), s))
    assert by_bias.abs().max() > 0


@pytest.mark.parametrize(
    ("options", "alpha", "share", "over"),
    [({}, 7e-5, 0.15, "channels"), ({"preset": "detection"}, 2e-5, 0.65, "positions")],
)
def test_weight_and_mask_are_those_of_the_authors(options, alpha, share, over, leaf, agree):
    step = step_of(leaf(2, 3, 3, 2, seed=1), leaf(2, 4, 3, 2, seed=2).detach())
    method = mgd(step, **options)
    assert (method.options.mask, method.options.over) == (share, over)
    loss, mask = seeded_loss(method, step)
    agree(loss, alpha * loss_of(array(step.student["stage3"]), array(step.teacher["stage3"]), method.generators[0], mask))


@pytest.mark.parametrize(("over", "shape"), [("channels", (40, 50, 1, 1)), ("positions", (40, 1, 7, 7))])
def test_a_mask_hides_its_share_and_scales_nothing(over, shape, leaf):
    torch.manual_seed(0)
    mask = draw_mask(leaf(40, 50, 7, 7).detach(), 0.3, over)
    assert mask.shape == shape
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(0.7, abs=0.04)


def test_masks_differ_from_step_to_step_and_a_seed_draws_them_again(leaf):
    step = step_of(leaf(4, 16, 2, 2, seed=1).detach(), leaf(4, 16, 2, 2, seed=2).detach())
    method = mgd(step, mask=0.5)
    torch.manual_seed(1)
    losses = [method(step)["generation"].item() for _ in range(3)]
    torch.manual_seed(1)
    assert [method(step)["generation"].item() for _ in range(3)] == losses
    assert len(set(losses)) == 3


def test_the_method_draws_from_the_generator_that_belongs_to_its_lane(leaf):
    step = step_of(leaf(2, 3, 2, 2), leaf(2, 3, 2, 2).detach())
    method = mgd(step)
    before = torch.get_rng_state()
    method(step)
    assert not torch.equal(torch.get_rng_state(), before)


def test_without_a_mask_the_generator_sees_everything(leaf, agree):
    step = step_of(leaf(2, 3, 2, 2, seed=1), leaf(2, 3, 2, 2, seed=2).detach())
    method = mgd(step, mask=0.0, alpha=1.0)
    expected = loss_of(array(step.student["stage3"]), array(step.teacher["stage3"]), method.generators[0], 1.0)
    agree(method(step)["generation"], expected)


def test_several_taps_are_summed(leaf, agree):
    student = {f"stage{side}": leaf(2, 3, side, side, seed=side) for side in (4, 2)}
    teacher = {f"stage{side}": leaf(2, 5, side, side, seed=side + 1).detach() for side in (4, 2)}
    step = make_step(student, teacher)
    method = mgd(step, mask=0.0, alpha=1.0)
    losses = [
        loss_of(array(student[name]), array(teacher[name]), generator, 1.0)
        for name, generator in zip(student, method.generators, strict=True)
    ]
    agree(method(step)["generation"], sum(losses))


def test_equal_maps_cost_nothing(leaf, gradient):
    student = leaf(3, 2, 4, 4)
    loss = generation_loss(student, student.detach().clone())
    assert loss.item() == 0
    assert gradient(loss, student).abs().max() == 0


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert MGD().task_weight == 1
    assert list(MGD().phases()) == []


def test_masking_everything_is_refused():
    with pytest.raises(SettingsError, match="less than 1"):
        MGD(mask=1.0)


def test_taps_that_hold_no_maps_are_refused(leaf):
    step = make_step({"embedding": leaf(2, 64)}, {"embedding": leaf(2, 64)})
    with pytest.raises(TapError, match=r"has \[2, 64\].*maps \[B, C, H, W\]"):
        built(MGD(), step)


@pytest.mark.slow
def test_the_generated_maps_come_closer_to_the_teachers_in_training(distil):
    result = distil(["mgd"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16})
    losses = [record["terms"]["mgd.generation"] for record in result.history]
    assert losses[-1] < 0.9 * losses[0]

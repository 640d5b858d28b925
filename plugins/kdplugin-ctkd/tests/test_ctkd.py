import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_ctkd import CTKD, reversal, reverse_gradient, soft_target_loss

from kdengine import SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step, tiny_pair
from kdengine.testing.bench import Bench, random_batch

SHAPES = [(1, 2), (2, 10), (7, 3), (5, 30)]
FIRST = 1 + 20 / (1 + math.exp(-1))


class TestContract(DistillerContract):
    method = "ctkd"
    at_equality: ClassVar = {"soft": 0.0}


class TestInstanceContract(DistillerContract):
    method = "ctkd"
    options: ClassVar = {"mode": "instance"}
    at_equality: ClassVar = {"soft": 0.0}


def softmax(row, temperature=1.0):
    raised = [math.exp((z - max(row)) / temperature) for z in row]
    return [value / sum(raised) for value in raised]


def soft_of(student, teacher, temperatures):
    each = []
    for s, t, temperature in zip(student, teacher, temperatures, strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        each.append(temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return sum(each) / len(each)


def sigmoid(number):
    return 1 / (1 + math.exp(-number))


@pytest.fixture
def outputs(leaf):
    """A step after the curriculum on random logits, in float64, and the same as arrays: student, teacher."""

    def make(shape, dtype=torch.float64, **step):
        student, teacher = leaf(*shape, seed=1, dtype=dtype), (3 * leaf(*shape, seed=2, dtype=dtype)).detach()
        step = make_step(student_logits=student, teacher_logits=teacher, **{"epoch": 9} | step)
        return step, student, student.detach().double().numpy(), teacher.double().numpy()

    return make


def at(step, number=1.0, **options):
    """The method, built, with a learned number of its global temperature."""
    method = built(CTKD(**options), step).double()
    torch.nn.init.constant_(method.learned[0].number, number)
    return method


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", [-2.0, 1.0])
def test_the_soft_term_and_its_gradient_are_those_of_the_formula(shape, number, outputs, slope, agree, gradient):
    step, student, s, t = outputs(shape)
    temperature = 1 + 20 * sigmoid(number)
    loss = at(step, number)(step)["soft"]
    agree(loss, 0.9 * soft_of(s, t, [temperature] * len(s)))
    agree(gradient(loss, student), slope(lambda moved: 0.9 * soft_of(moved, t, [temperature] * len(s)), s), 1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_float32_the_soft_term_errs_by_no_more_than_rounding(shape, outputs):
    step, _, s, t = outputs(shape, dtype=torch.float32)
    loss = built(CTKD(alpha=1.0), step)(step)["soft"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(soft_of(s, t, [FIRST] * len(s)), rel=1e-5, abs=2e-7 * FIRST**2)


@pytest.mark.parametrize(("epoch", "strength"), [(0, (1 - math.cos(math.pi / 10)) / 2), (4, 0.5), (9, 1.0), (200, 1.0)])
def test_the_temperature_climbs_the_loss_more_steeply_from_epoch_to_epoch(epoch, strength, outputs, slope, agree, gradient):
    step, _, s, t = outputs((4, 6), epoch=epoch)
    method = at(step, -1.0)
    found = gradient(method(step)["soft"], method.learned[0].number)
    climbed = slope(lambda number: 0.9 * soft_of(s, t, [1 + 20 * sigmoid(number.item())] * 4), np.full((1, 1), -1.0))
    assert climbed.item() != 0
    agree(found, -strength * climbed)


def test_an_update_makes_the_loss_larger(outputs):
    step, *_ = outputs((4, 6))
    method = at(step)
    before = method(step)["soft"]
    before.backward()
    with torch.no_grad():
        method.learned[0].number -= 1e-2 * method.learned[0].number.grad
    assert method(step)["soft"] > before


def test_the_reversal_reaches_its_strength_in_the_last_of_its_epochs():
    assert [reversal(epoch, 3) for epoch in range(4)] == pytest.approx([0.25, 0.75, 1.0, 1.0])
    assert reversal(0, 0) == reversal(0, 1) == 1


def test_reversing_leaves_the_values_to_the_last_bit(leaf, gradient):
    x = leaf(5)
    assert torch.equal(reverse_gradient(x, 0.3), x)
    assert gradient(reverse_gradient(x, 0.3).sum(), x).tolist() == pytest.approx([-0.3] * 5)


def test_strength_zero_holds_the_temperature_still(outputs, gradient):
    step, *_ = outputs((4, 6))
    method = at(step, strength=0.0)
    assert not gradient(method(step)["soft"], method.learned[0].number).any()


def test_lowest_and_width_are_the_limits(outputs):
    step, *_ = outputs((4, 6))
    for number, limit in [(-50.0, 2.0), (50.0, 5.0)]:
        (temperature,) = at(step, number, lowest=2.0, width=3.0).temperatures(step)
        assert temperature.item() == pytest.approx(limit)


def test_width_zero_is_soft_targets(outputs, agree):
    step, _, s, t = outputs((4, 6))
    agree(at(step, lowest=4.0, width=0.0)(step)["soft"], 0.9 * soft_of(s, t, [4.0] * 4))


def test_in_mode_instance_each_image_has_a_temperature_of_its_own(outputs, agree, gradient):
    step, student, s, t = outputs((4, 6))
    method = built(CTKD(mode="instance", hidden=16), step).double()
    first, _, last = method.learned[0].layers
    numbers = []
    for a, b in zip(s, t, strict=True):
        hidden = np.maximum(0, first.weight.detach().numpy() @ [*softmax(a), *softmax(b)] + first.bias.detach().numpy())
        numbers.append((last.weight.detach().numpy() @ hidden + last.bias.detach().numpy()).item())
    temperatures = [1 + 20 * sigmoid(number) for number in numbers]
    assert len({round(value, 6) for value in temperatures}) == 4
    loss = method(step)["soft"]
    agree(loss, 0.9 * soft_of(s, t, temperatures))
    fixed = 0.9 * soft_target_loss(student, torch.tensor(t), torch.tensor(temperatures)[:, None].double())
    agree(gradient(loss, student), gradient(fixed, student).numpy())  # none by way of the temperatures


@pytest.mark.parametrize("mode", ["global", "instance"])
def test_the_optimizer_trains_what_the_temperature_is_learned_from(mode):
    bench = Bench("ctkd", tiny_pair(), {"mode": mode})
    bench.lane.begin_epoch()
    learned = bench.lane.module.methods["ctkd"].learned
    before = {name: value.clone() for name, value in learned.state_dict().items()}
    bench.step(random_batch(4))
    assert before
    assert [name for name, value in learned.state_dict().items() if torch.equal(value, before[name])] == []


@pytest.mark.parametrize(("options", "weight"), [({}, 0.1), ({"task": 1.0}, 1.0), ({"alpha": 3.0, "task": 0.0}, 0.0)])
def test_the_task_weighs_one_minus_alpha_unless_said_otherwise(options, weight):
    assert CTKD(**options).task_weight == pytest.approx(weight)


def test_alpha_above_one_asks_for_the_weight_of_the_task():
    with pytest.raises(SettingsError, match="alpha above 1 needs 'task'"):
        CTKD(alpha=1.5)


@pytest.mark.parametrize("mode", ["global", "instance"])
def test_huge_logits_stay_finite(mode):
    student = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], requires_grad=True)
    step = make_step(student_logits=student, teacher_logits=torch.tensor([[-1e4, 1e4, 0.0], [1e4, 0.0, 0.0]]))
    method = built(CTKD(mode=mode), step)
    loss = method(step)["soft"]
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in [student, *method.parameters()])


def test_taps_that_are_no_logits_are_refused(leaf):
    step = make_step(student={"stage3": leaf(2, 3, 4, 4)}, teacher={"stage3": leaf(2, 3, 4, 4)})
    with pytest.raises(TapError, match=r"logits \[B, K\] of the same classes"):
        built(CTKD(), step)


def test_a_run_begins_at_the_first_temperature(one_step):
    (terms,), student, teacher, _ = one_step(["ctkd"])
    s, t = student["logits"], teacher["logits"]
    assert terms["ctkd.soft"] == pytest.approx(0.9 * soft_of(s, t, [FIRST] * len(s)), rel=1e-3)


def test_mixup_is_no_obstacle(distil):
    result = distil(["ctkd"], train={"mixup": 0.2, "batch_size": 64})
    assert np.isfinite(list(result.history[0]["terms"].values())).all()

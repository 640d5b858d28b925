import math

import pytest
import torch
from torch import nn

from kdengine.config.settings import TrainSettings
from kdengine.errors import SettingsError
from kdengine.training.optimizer import check_optimizer, make_optimizer, make_schedule


def parameters():
    return [nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3))]


def rates(updates=100, steps=10, lr=1.0, **settings):
    """The learning rate of every update of a stage, set before the update as a lane does."""
    chosen = TrainSettings(lr=lr, **settings)
    optimizer = make_optimizer(parameters(), chosen)
    schedule = make_schedule(optimizer, chosen, updates, steps)
    found = []
    for update in range(updates):
        if schedule is not None:
            schedule.step_update(update)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_an_unknown_optimizer_is_answered_with_the_nearest():
    with pytest.raises(SettingsError, match=r"train\.optimizer = 'adamv' is unknown\. Did you mean 'adam'"):
        check_optimizer(TrainSettings(optimizer="adamv"))


def test_an_unknown_optimizer_near_nothing_is_answered_with_some_there_are():
    with pytest.raises(SettingsError, match=r"'qqqq' is unknown\. Name one of timm's, such as sgd, adamw or lamb\."):
        check_optimizer(TrainSettings(optimizer="qqqq"))


@pytest.mark.parametrize("name", ["sgd", "SGD", "momentum", "adam", "adamw", "lion", "lars", "rmsprop", "nadamw"])
def test_the_optimizers_of_timm_can_be_made_and_update(name):
    settings = TrainSettings(optimizer=name, lr=0.01)
    check_optimizer(settings)
    weights = parameters()
    optimizer = make_optimizer(weights, settings)
    sum(weight.pow(2).sum() for weight in weights).backward()
    optimizer.step()
    assert (weights[0] != 1).all()


def test_an_optimizer_that_cannot_be_made_is_refused_before_anything_is_trained():
    with pytest.raises(SettingsError, match=r"train\.optimizer = 'fusedsgd' cannot be created: "):
        check_optimizer(TrainSettings(optimizer="fusedsgd"))


def test_sgd_updates_by_the_formula_of_nesterov():
    settings = TrainSettings(lr=0.1, momentum=0.9, weight_decay=0.01)
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = make_optimizer([weight], settings)
    expected, velocity = 1.0, 0.0
    for _ in range(3):
        optimizer.zero_grad()
        (3 * weight).sum().backward()
        optimizer.step()
        gradient = 3 + 0.01 * expected
        velocity = 0.9 * velocity + gradient
        expected -= 0.1 * (gradient + 0.9 * velocity)
    assert weight.tolist() == pytest.approx([expected] * 2, rel=1e-12)


@pytest.mark.parametrize(("settings", "nesterov"), [({}, True), ({"nesterov": False}, False), ({"momentum": 0.0}, False)])
def test_nesterov_is_used_where_it_is_wanted_and_possible(settings, nesterov):
    optimizer = make_optimizer(parameters(), TrainSettings(**settings))
    assert optimizer.defaults["nesterov"] is nesterov
    assert optimizer.defaults["momentum"] == settings.get("momentum", 0.9)


def test_weight_decay_falls_on_every_parameter_alike():
    (group,) = make_optimizer(parameters(), TrainSettings(weight_decay=0.02)).param_groups
    assert group["weight_decay"] == 0.02
    assert len(group["params"]) == 2


def test_the_cosine_falls_from_the_rate_to_almost_nothing():
    expected = [0.5 * (1 + math.cos(math.pi * update / 100)) for update in range(100)]
    assert rates(schedule="cosine") == pytest.approx(expected)


def test_multistep_falls_at_the_shares_of_the_stage():
    found = rates(schedule="multistep", milestones=(0.3, 0.6, 0.8), decay=0.1)
    assert found == pytest.approx([1.0] * 30 + [0.1] * 30 + [0.01] * 20 + [0.001] * 20)


def test_milestones_may_stand_in_any_order():
    assert rates(schedule="multistep", milestones=(0.8, 0.3)) == rates(schedule="multistep", milestones=(0.3, 0.8))


def test_a_constant_rate_needs_no_schedule():
    assert make_schedule(make_optimizer(parameters(), TrainSettings()), TrainSettings(schedule="constant"), 100, 10) is None
    assert rates(schedule="constant") == [1.0] * 100


@pytest.mark.parametrize("schedule", ["constant", "cosine", "multistep"])
def test_the_warm_up_rises_linearly_from_a_tenth_and_delays_nothing(schedule):
    found, without = rates(schedule=schedule, warmup_epochs=2), rates(schedule=schedule)
    assert found[:20] == pytest.approx([0.1 + 0.9 * update / 20 for update in range(20)])
    assert found[20:] == pytest.approx(without[20:])


def test_a_phase_of_a_single_update_keeps_its_rate_without_a_remark_of_timms(caplog):
    assert rates(updates=1, steps=1) == [1.0]
    assert not caplog.records

import pytest
import torch
from torch import nn

from kdengine import Distiller
from kdengine.config.settings import TrainSettings
from kdengine.tasks import Classification
from kdengine.training.lane_module import LaneModule
from kdengine.training.runtime import Runtime
from kdengine.training.updater import OptimizerStep, Outcome


class Quiet(Distiller):
    """Has a connector."""

    name = "quiet"
    clips_to_task = False

    def __init__(self, **options):
        super().__init__(**options)
        self.map = nn.Linear(2, 1, bias=False)

    def forward(self, step):
        return {"loss": self.map(step.student.logits).mean()}


def make(clip_to_task=False, **settings):
    torch.manual_seed(0)
    module = LaneModule(nn.Linear(2, 2, bias=False), {"quiet": Quiet()}, Classification(2))
    module.distillers["quiet"].clips_to_task = clip_to_task
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "lr": 0.1, **settings}
    return module, OptimizerStep(module, TrainSettings(**plain), Runtime("cpu", "fp32", alone=True))


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def terms(module):
    out = module.student(torch.tensor([[1.0, 2.0]]))
    return {"task": out.square().sum(), "quiet.loss": module.distillers["quiet"].map(out).sum()}


def test_a_step_goes_down_the_gradient_of_the_sum_of_all_terms():
    module, updater = make()
    before, loss = weights(module), sum(terms(module).values())
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    assert updater.update(terms(module), 0, 0) is Outcome.UPDATED
    for (name, value), gradient in zip(module.named_parameters(), gradients, strict=True):
        assert torch.allclose(value, before[name] - 0.1 * gradient, atol=1e-6)


@pytest.mark.parametrize("bad", ["value", "gradient"])
def test_what_is_not_finite_changes_nothing(bad):
    module, updater = make()
    before = weights(module)
    out = module.student(torch.ones(1, 2)).sum()
    worm = out * float("nan") if bad == "value" else (out - out).sqrt()
    assert updater.update({"task": out, "quiet.worm": worm}, 0, 0) is Outcome.REFUSED
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


def test_gradients_are_shortened_together_to_the_norm_that_is_allowed():
    module, updater = make(clip_grad=0.01)
    updater.update(terms(module), 0, 0)
    norm = torch.stack([value.grad.square().sum() for value in module.parameters()]).sum().sqrt()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_a_method_that_is_clipped_to_the_task_keeps_its_connectors_gradient():
    module, updater = make(clip_to_task=True)
    free, clipped = (torch.autograd.grad(terms(module)[name], module.student.weight)[0] for name in ("task", "quiet.loss"))
    own = torch.autograd.grad(terms(module)["quiet.loss"], module.distillers["quiet"].map.weight)[0]
    updater.update(terms(module), 0, 0)
    share = torch.sigmoid(torch.zeros(())) * free.norm() / clipped.norm()
    assert torch.allclose(module.student.weight.grad, free + clipped * share.clamp(max=1), atol=1e-6)
    assert torch.allclose(module.distillers["quiet"].map.weight.grad, own)


def test_the_rate_follows_the_stage_or_stays():
    module, updater = make(schedule="cosine")
    updater.begin_phase(10, 5)
    rates = [updater.update(terms(module), done, 0) and updater.lr for done in range(10)]
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01
    module, updater = make(schedule="cosine")
    updater.begin_phase(None, 5)
    assert [updater.update(terms(module), done, 0) and updater.lr for done in range(3)] == [0.1] * 3


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_phase_with_a_schedule_after_one_without_applies_the_factors_of_layers_once(schedule):
    module, _ = make()
    module.classifier = "0"
    module.student = nn.Sequential(nn.Linear(2, 2, bias=False))
    settings = TrainSettings(lr=0.1, head_lr=3.0, schedule=schedule, reset_optimizer=False)
    updater = OptimizerStep(module, settings, Runtime("cpu", "fp32", alone=True))
    for updates in (None, 10, None, 10):
        updater.begin_phase(updates, 5)
        updater.update(terms(module), 0, 0)
        groups = updater.state_dict()["param_groups"]
        assert sorted({round(group["lr"], 6) for group in groups}) == [0.1, 0.3]


def test_what_the_settings_say_goes_before_what_was_saved_but_for_a_rate_that_is_scheduled():
    module, updater = make(momentum=0.9, weight_decay=0.1)
    updater.update(terms(module), 0, 0)
    saved = updater.state_dict()
    for scheduled in (False, True):
        _, other = make(momentum=0.5, weight_decay=0.2, lr=0.3)
        other.begin_phase(10 if scheduled else None, 5)
        other.load_state_dict(saved)
        (group,) = other.state_dict()["param_groups"]
        assert (group["momentum"], group["weight_decay"]) == (0.5, 0.2)
        assert group["lr"] == (saved["param_groups"][0]["lr"] if scheduled else 0.3)


def test_a_state_goes_where_the_kernels_of_this_device_want_it():
    module, updater = make(optimizer="adamw")
    updater.update(terms(module), 0, 0)
    saved = updater.state_dict()
    saved["state"][0]["step"] = saved["state"][0]["step"].double()
    for fused, dtype in ((False, torch.float64), (True, torch.float32)):  # what fused kernels take, torch converts and moves
        _, other = make(optimizer="adamw")
        other._bare.param_groups[0].update(fused=fused, foreach=not fused)
        other.load_state_dict(saved)
        assert other.state_dict()["state"][0]["step"].dtype == dtype


def test_a_state_of_other_groups_is_refused():
    module, updater = make(momentum=0.9)
    updater.update(terms(module), 0, 0)
    saved = updater.state_dict()
    with pytest.raises(ValueError, match="different number of parameter groups"):
        make(momentum=0.9)[1].load_state_dict({**saved, "param_groups": saved["param_groups"] * 2})


def test_a_state_is_that_of_the_optimizer():
    module, updater = make(momentum=0.9)
    updater.update(terms(module), 0, 0)
    _, other = make(momentum=0.9)
    other.load_state_dict(updater.state_dict())
    one, two = (updater.state_dict()["state"][0]["momentum_buffer"], other.state_dict()["state"][0]["momentum_buffer"])
    assert torch.equal(one, two)


def test_clipped_gradients_add_up_over_the_steps_of_one_update():
    """The gradient of two accumulated steps is the mean of what each of them alone gives."""
    module, updater = make(clip_to_task=True, accumulate=2)
    updater.begin_phase(None, 2)
    alone = []
    for factor in (1.0, 3.0):
        other, single = make(clip_to_task=True)
        single.update({name: factor * value for name, value in terms(other).items()}, 0, 0)
        alone.append({name: value.grad for name, value in other.named_parameters()})
    assert updater.update(terms(module), 0, 0) is Outcome.POSTPONED
    assert updater.state_dict()["gradients"].keys() == alone[0].keys()
    assert updater.update({name: 3 * value for name, value in terms(module).items()}, 1, 0) is Outcome.UPDATED
    for name, value in module.named_parameters():
        torch.testing.assert_close(value.grad, (alone[0][name] + alone[1][name]) / 2)


def test_with_a_constant_rate_head_and_backbone_keep_their_factors():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module = LaneModule(network, {}, Classification(2), classifier="1")
    settings = TrainSettings(schedule="constant", lr=0.1, head_lr=3.0)
    updater = OptimizerStep(module, settings, Runtime("cpu", "fp32", alone=True))
    updater.begin_phase(10, 5)
    assert [group["lr"] for group in updater.state_dict()["param_groups"]] == pytest.approx([0.1, 0.3])
    assert updater.lr == pytest.approx(0.1)


def fp16():
    torch.manual_seed(0)
    module = LaneModule(nn.Linear(2, 2, bias=False), {}, Classification(2))
    settings = TrainSettings(momentum=0.0, nesterov=False, weight_decay=0.0, lr=0.1)
    return module, OptimizerStep(module, settings, Runtime("cpu", "fp16", alone=True))


def test_in_fp16_a_gradient_that_is_too_large_is_skipped_and_the_next_is_scaled_down():
    module, updater = fp16()
    before, scale = weights(module), updater.state_dict()["scaler"]["scale"]
    infinite = {"task": (module.student(torch.ones(1, 2)) * 0).sum().sqrt()}  # finite, but not its gradient
    assert updater.update(infinite, 0, 0) is Outcome.POSTPONED
    assert updater.state_dict()["scaler"]["scale"] == scale / 2
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())
    outcomes = [updater.update({"task": (module.student(torch.ones(1, 2)) * 0).sum().sqrt()}, done, 0) for done in range(1, 20)]
    assert outcomes[-1] is Outcome.REFUSED, "a scale this small is no remedy: the gradient itself is at fault"


def test_in_fp16_a_loss_that_is_not_finite_is_refused_at_once():
    module, updater = fp16()
    assert updater.update({"task": module.student(torch.ones(1, 2)).sum() * torch.nan}, 0, 0) is Outcome.REFUSED

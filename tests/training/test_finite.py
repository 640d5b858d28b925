import pytest
import torch
from torch import nn

from kdengine import Distiller, Engine, TrainingError
from kdengine.training.gradients import gradient_fault, loss_fault, norm_of_gradients

FAST = {"data": "digits@train=16@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "epochs": 1}


class Rooted(Distiller):
    """Its value is finite, and its derivative at zero is not."""

    name = "rooted"

    def forward(self, step):
        same = step.student.logits - step.student.logits
        return {"fine": step.student.logits.square().mean(), "worm": same.square().sum().sqrt()}


@pytest.fixture
def layer():
    return nn.Linear(2, 1)


def test_the_norm_is_that_of_all_gradients_together(layer):
    layer.weight.grad, layer.bias.grad = torch.tensor([[2.0, 3.0]]), torch.tensor([6.0])
    frozen = nn.Parameter(torch.ones(3))
    assert float(norm_of_gradients([*layer.parameters(), frozen])) == pytest.approx(7.0)
    layer.bias.grad.fill_(float("nan"))
    assert not norm_of_gradients(list(layer.parameters())).isfinite()


def test_the_norm_has_the_bits_of_torch_whatever_the_gradients_are():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1))
    for dtype in (torch.float32, torch.bfloat16):
        network[2].to(dtype)
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        gradients = [parameter.grad for parameter in network.parameters()]
        assert torch.equal(norm_of_gradients(network.parameters()), nn.utils.get_total_norm(gradients))
    assert norm_of_gradients([]) == 0


def test_terms_that_are_not_finite_are_named(layer):
    terms = {"task": torch.tensor(1.0), "st.soft": torch.tensor(float("nan"))}
    assert "st, epoch 1, step 7: the loss is no longer finite: st.soft = nan" in str(loss_fault("st, epoch 1, step 7", terms))
    assert loss_fault("st", {"task": torch.tensor(1.0)}) is None
    assert "the sum of" in str(loss_fault("st", {"a": torch.tensor(3e38), "b": torch.tensor(3e38)}))


def test_a_term_with_a_gradient_that_is_not_finite_is_named_with_the_place(layer):
    here = layer(torch.ones(3, 2))
    terms = {"fine": here.sum(), "worm": (here - here).square().sum().sqrt(), "constant": torch.ones(())}
    said = str(gradient_fault("st, epoch 1, step 7", terms, dict(layer.named_parameters())))
    assert "st, epoch 1, step 7" in said
    assert "worm (at weight, bias)" in said
    assert "fine (" not in said
    assert gradient_fault("st", {"fine": layer(torch.ones(3, 2)).sum()}, dict(layer.named_parameters())) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_stops_before_a_gradient_that_is_not_finite_touches_the_weights(precision, tmp_path):
    student = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, 10))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(TrainingError, match=r"rooted, epoch 1, step 1: .* of rooted.worm \(at student.2.weight") as caught:
        Engine(
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)),
            student,
            [Rooted()],
            out=tmp_path / "run",
            **{**FAST, "precision": precision},
        ).fit()
    assert "rooted.fine" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())

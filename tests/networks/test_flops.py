import kdzoo  # noqa: F401  registers the small networks with timm
import timm
import torch
from torch import nn

from kdengine import Anatomy
from kdengine.networks.flops import count_flops

SMALL = (3, 32, 32)


def test_a_multiply_add_is_two_operations():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    assert count_flops(model, (3, 8, 8)) == 2 * (3 * 9 * 4 * 64) + 2 * (4 * 64 * 10)


def test_operations_are_counted_for_one_image_without_touching_the_network():
    model = timm.create_model("resnet8", num_classes=10).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flops = count_flops(model, SMALL)
    assert flops is not None
    assert 20e6 < flops < 30e6
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_network_that_needs_values_has_no_count():
    class Choosy(nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    assert count_flops(Choosy(), SMALL) is None


def test_a_forward_that_ends_early_costs_what_ran():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 1), nn.Flatten(), nn.Linear(8 * 8 * 8, 10))
    points = Anatomy.of(model, (3, 8, 8)).resolve_all(["0"])
    assert count_flops(model, (3, 8, 8), points) == 2 * (3 * 9 * 4 * 64)
    logits = Anatomy.of(model, (3, 8, 8)).resolve_all(["0", "logits"])
    assert count_flops(model, (3, 8, 8), logits) == count_flops(model, (3, 8, 8))


def test_a_hint_in_the_middle_of_a_resnet50_saves_part_of_the_teacher():
    model = timm.create_model("resnet50", num_classes=100)
    middle = Anatomy.of(model, (3, 64, 64)).resolve_all(["stage3"])
    assert count_flops(model, (3, 64, 64), middle) < 0.85 * count_flops(model, (3, 64, 64))

import time

import kdzoo  # noqa: F401  (registers the CIFAR networks with timm)
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from kdengine.errors import TapError
from kdengine.taps.probe import copy_to, probe


class Caching(nn.Module):
    """Keeps what it computed, with its graph, as attention modules do that are to be looked at."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)
        self.kept = []
        self.steps = 0

    def forward(self, x):
        self.steps += 1
        self.last = self.conv(x)
        self.kept.append(self.last)
        return self.fc(self.last.mean((2, 3)))


def state_of(model):
    return {name: (tensor.clone(), tensor._version) for name, tensor in model.state_dict(keep_vars=True).items()}


def test_a_probe_runs_on_meta_and_takes_no_time():
    model = timm.create_model("resnet8")
    probe(model, (3, 32, 32))
    start = time.process_time()
    seen = probe(model, (3, 32, 32))
    assert time.process_time() - start < 0.3
    assert seen.device == "meta"
    assert seen.logits.shape == (2, 10)


def test_calls_are_listed_in_the_order_in_which_they_end():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten())
    seen = probe(model, (3, 8, 8))
    assert [call.path for call in seen.calls] == ["0.0", "0.1", "0", "1", ""]
    assert seen.find("0").contains(seen.find("0.1"))
    assert not seen.find("0").contains(seen.find("1"))
    assert [seen.layers_within(call) for call in seen.calls] == [0, 0, 1, 0, 1]


def test_every_call_of_a_shared_module_is_kept():
    act = nn.ReLU()
    seen = probe(nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 6, 3), act), (3, 8, 8))
    assert seen.times_called("1") == 2
    assert [seen.find("1", number).output.shape[1] for number in (0, 1)] == [4, 6]
    assert seen.find("1", 2) is None


def test_the_network_is_left_as_it_was():
    model = timm.create_model("resnet8").train()
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    attributes = [sorted(vars(module)) for module in model.modules()]
    before, random = state_of(model), torch.get_rng_state()
    probe(model, (3, 32, 32))
    assert all(module.training for module in model.modules())
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert [sorted(vars(module)) for module in model.modules()] == attributes
    assert torch.equal(torch.get_rng_state(), random)
    after = state_of(model)
    assert before.keys() == after.keys()
    for name, (tensor, version) in before.items():
        assert torch.equal(tensor, after[name][0])
        assert version == after[name][1]


def test_a_network_that_keeps_what_it_computed_is_probed_and_keeps_nothing_of_the_probe():
    model = Caching()
    model(torch.rand(1, 3, 8, 8))
    last, kept = model.last, list(model.kept)
    assert probe(model, (3, 8, 8)).device == "meta"
    assert model.last is last
    assert len(model.kept) == len(kept)
    assert model.steps == 1


def test_hooks_of_the_user_do_not_see_the_probe():
    seen = []
    model = timm.create_model("resnet8")
    handle = model.layer1.register_forward_hook(lambda module, args, output: seen.append(output))
    model.layer1.register_forward_pre_hook(lambda module, args: seen.append(args))
    probe(model, (3, 32, 32))
    assert seen == []
    handle.remove()
    model(torch.rand(2, 3, 32, 32))
    assert len(seen) == 1


def test_old_weight_normalisation_can_be_probed():
    with pytest.warns(FutureWarning):
        conv = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    model = nn.Sequential(conv, nn.Flatten())
    model(torch.rand(1, 3, 8, 8))
    assert probe(model, (3, 8, 8)).find("0").output.shape == (2, 4, 6, 6)


def test_parametrised_layers_are_layers():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten())
    assert probe(model, (3, 8, 8)).find("0").layer


def test_a_network_that_needs_values_is_probed_on_the_cpu():
    class Values(nn.Sequential):
        def forward(self, x):
            out = super().forward(x)
            return out if float(out.sum()) < 1e9 else -out

    model = Values(nn.Conv2d(3, 4, 3), nn.Dropout2d(inplace=True), nn.ReLU())
    random = torch.get_rng_state()
    seen = probe(model, (3, 8, 8))
    assert seen.device == "cpu"
    assert all(call.output.device.type == "meta" for call in seen.calls)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_image_has_the_dtype_of_the_weights(dtype):
    assert probe(timm.create_model("resnet8").to(dtype), (3, 32, 32)).find("conv1").input.dtype == dtype


def test_a_size_that_does_not_fit_is_refused_with_the_reason_and_the_fix():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    with pytest.raises(TapError, match=r"Sequential does not accept a batch of \[2, 3, 8, 8\] .*Choose a network"):
        probe(model, (3, 8, 8))


def test_a_network_without_a_tensor_as_output_is_refused():
    class Silent(nn.Module):
        def forward(self, x):
            return None

    with pytest.raises(TapError, match=r"Silent cannot be tapped: its forward returns no tensor\.$"):
        probe(Silent(), (3, 8, 8))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        kept = self.a(x)
        relued = self.act(self.b(kept))
        added = self.c(relued)
        added += kept
        return F.relu(added[:, :2], inplace=True)


def test_what_is_overwritten_later_is_known_and_nothing_else():
    seen = probe(InPlace(), (3, 8, 8))
    outputs = {call.path: call.output_overwritten for call in seen.calls}
    inputs = {call.path: call.input_overwritten for call in seen.calls}
    assert outputs == {"a": False, "b": True, "act": False, "c": True, "relu()": False, "": False}
    assert inputs == {"a": False, "b": False, "act": True, "c": False, "relu()": True, "": False}


def test_what_dropout_overwrites_in_training_is_known():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5, inplace=True), nn.Linear(4, 5)
    )
    seen = probe(model.eval(), (3, 8, 8))
    assert seen.find("1").output_overwritten
    assert not seen.find("0").output_overwritten
    assert not seen.find("4").input_overwritten


def test_functional_activations_are_calls_of_the_module_that_makes_them():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return F.relu(self.conv(x)) + torch.relu(x)

    seen = probe(nn.Sequential(Block(), nn.ReLU()), (3, 8, 8))
    assert [(call.path, call.number) for call in seen.calls if call.activation] == [("0.relu()", 0), ("0.relu()", 1), ("1", 0)]


def test_a_branch_that_raises_does_not_confuse_the_order():
    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError

    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Fails(), nn.Identity()

        def forward(self, x):
            try:
                return self.first(x)
            except ValueError:
                return self.second(x)

    assert [call.path for call in probe(Tries(), (3, 8, 8)).calls] == ["second", ""]


def test_a_copy_on_meta_shares_no_memory_and_keeps_tied_weights_tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    twin = copy_to("meta", model)
    assert twin[1].weight is twin[0].weight
    assert twin[0].weight.is_meta
    assert not model[0].weight.is_meta

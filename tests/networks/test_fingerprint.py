import copy

import pytest
import torch
from torch import nn

from kdengine.networks.fingerprint import fingerprint


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_equal_weights_have_one_mark_in_any_memory_layout(network):
    assert fingerprint(network) == fingerprint(copy.deepcopy(network).to(memory_format=torch.channels_last))
    assert len(fingerprint(network)) == 16


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_var", "1.num_batches_tracked"])
def test_the_least_change_of_a_weight_or_buffer_changes_it(name, network):
    before = fingerprint(network)
    tensor = network.state_dict()[name].flatten()
    tensor.data[0] = torch.nextafter(tensor[0], tensor[0] + 1) if tensor.is_floating_point() else tensor[0] + 1
    assert fingerprint(network) != before


def test_names_and_types_count_too(network):
    assert fingerprint(nn.Sequential(nn.Linear(2, 3))) != fingerprint(nn.Sequential(nn.Identity(), nn.Linear(2, 3)))
    assert fingerprint(network) != fingerprint(copy.deepcopy(network).to(torch.bfloat16))


def test_what_a_module_keeps_of_its_own_kind_and_what_has_no_values_are_passed_over():
    class Keeping(nn.Linear):
        def get_extra_state(self):
            return {"anything": object()}

        def set_extra_state(self, state):
            pass

    assert fingerprint(Keeping(2, 3))
    assert fingerprint(nn.Linear(2, 3, device="meta")) == fingerprint(nn.Linear(2, 3, device="meta"))

import pytest
from torch import nn

from kdengine import SettingsError
from kdengine.training.recomputing import recompute


class Timm(nn.Module):
    """Switches as timm's networks do."""

    state = None

    def set_grad_checkpointing(self, enable):
        self.state = enable


class HuggingFace(nn.Module):
    """Switches as Hugging Face's networks do."""

    state = None

    def gradient_checkpointing_enable(self):
        self.state = True

    def gradient_checkpointing_disable(self):
        self.state = False


@pytest.mark.parametrize("kind", [Timm, HuggingFace])
def test_a_network_is_switched_on_and_off_where_that_is_asked_for(kind):
    network = kind()
    recompute(network, False)
    assert network.state is None
    recompute(network, True)
    assert network.state is True
    recompute(network, True, on=False)
    assert network.state is False


def test_a_network_that_cannot_is_refused():
    with pytest.raises(SettingsError, match="Linear does not offer to recompute its activations"):
        recompute(nn.Linear(2, 2), True)

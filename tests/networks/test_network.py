import pytest
from torch import nn

from kdengine import ModelError, TapError
from kdengine.networks.network import Network
from kdengine.tasks import Classification


def test_a_network_must_return_as_many_logits_as_there_are_classes():
    maps = nn.Conv2d(3, 10, 3)
    with pytest.raises(ModelError, match=r"'maps' returns \[2, 10, 30, 30\] .* \[2, 10\] is needed"):
        Network.probed("maps", maps, (3, 32, 32), Classification(10))
    with pytest.raises(TapError, match="does not accept"):
        Network.probed("vectors", nn.Linear(7, 10), (3, 32, 32), Classification(10))

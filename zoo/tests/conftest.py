import functools
import json
import subprocess
import sys

import kdzoo  # noqa: F401  registers the networks with timm
import pytest
import timm
import torch
import torch.nn.functional as F

FRESH = """
import json, sys
import timm
before = timm.list_models()
import kdzoo
network = timm.create_model("resnet8", num_classes=7, in_chans=1)
print(json.dumps({
    "before": before,
    "kdengine": "kdengine" in sys.modules,
    "classes": network.fc.out_features,
    "after": timm.list_models(),
}))
"""


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory):
    """The user's cache is left alone; a teacher that several tests learn from is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDENGINE_CACHE", str(tmp_path_factory.mktemp("kdengine-cache")))
        yield


@pytest.fixture(scope="session")
def fresh():
    """What a new process finds that imports timm and the zoo, and nothing else."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def shell():
    """A network on the meta device: shapes without numbers."""

    def make(name, **options):
        with torch.device("meta"):
            return timm.create_model(name, **options)

    return make


@pytest.fixture(scope="session")
def kept(shell):
    """The same for a network that the test does not change: each is made once."""
    return functools.cache(shell)


@pytest.fixture(scope="session")
def count(shell):
    """Number of trainable values."""

    def of(name, classes, **options):
        return sum(value.numel() for value in shell(name, num_classes=classes, **options).parameters())

    return of


@pytest.fixture
def lively():
    """A network in float64 for inference whose normalisations do something, as after training."""

    def make(name, **options):
        torch.manual_seed(0)
        network = timm.create_model(name, **options).eval().double()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for value in (module.running_mean, module.weight.data, module.bias.data):
                    value.normal_(0.3, 0.5)  # both signs
                module.running_var.uniform_(0.5, 1.5)
        return network

    return make


@pytest.fixture
def image():
    """Two random images in float64, [2, C, H, W]."""
    return lambda channels=3, side=32: torch.randn(
        2, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture
def compute():
    """Layers as functions of a state dict: ``conv(x, "layer1.0.conv1", stride=2)`` and ``norm(x, "layer1.0.bn1")``."""

    class Functions:
        def __init__(self, network):
            self.state = network.state_dict()

        def conv(self, x, path, **options):
            return torch.conv2d(x, self.state[f"{path}.weight"], self.state.get(f"{path}.bias"), **options)

        def norm(self, x, path):
            mean, variance, scale, shift = (
                self.state[f"{path}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
            )
            return F.batch_norm(x, mean, variance, scale, shift)

        def linear(self, x, path):
            return x @ self.state[f"{path}.weight"].T + self.state[f"{path}.bias"]

    return Functions

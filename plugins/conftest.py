"""What the tests of all methods share: derivatives taken numerically, and real runs."""

import copy

import kdzoo  # noqa: F401  registers the networks with timm
import numpy as np
import pytest
import timm
import torch
from torch import nn

from kdengine import Engine
from kdengine.data.load import load_data


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory):
    """The user's cache is left alone; a teacher that several tests learn from is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDENGINE_CACHE", str(tmp_path_factory.mktemp("kdengine-cache")))
        yield


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache for this test alone, so that its teacher is trained in it."""
    monkeypatch.setenv("KDENGINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def slope():
    """The derivative of a float64 function of one array, by central differences."""

    def differentiate(function, at, width=1e-5):
        at = np.array(at, dtype=np.float64)
        result = np.zeros_like(at)
        for place in np.ndindex(at.shape):
            values = []
            for sign in (1, -1):
                moved = at.copy()
                moved[place] += sign * width
                values.append(function(moved))
            result[place] = (values[0] - values[1]) / (2 * width)
        return result

    return differentiate


@pytest.fixture
def agree():
    """Checks a tensor against a float64 reference, relative to the largest value of the reference."""

    def check(tensor, reference, relative=1e-5):
        found = tensor.detach().double().numpy()
        reference = np.asarray(reference, dtype=np.float64)
        assert found.shape == reference.shape
        largest = np.abs(reference).max()
        assert largest > 0, "a reference of zero would prove nothing"
        assert np.abs(found - reference).max() <= relative * largest, (found, reference)

    return check


@pytest.fixture
def gradient():
    """The gradient of a scalar with respect to one tensor."""
    return lambda loss, tensor: torch.autograd.grad(loss, tensor)[0]


@pytest.fixture
def doubled():
    """Makes a network whose logits are twice what the classifier of another gives."""

    class Doubled(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return 2 * self.network(x)

    return Doubled


@pytest.fixture
def leaf():
    """A random tensor that asks for gradients."""

    def make(*shape, seed=0, rectified=False, dtype=torch.float32):
        values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        return (values.relu() if rectified else values).requires_grad_()

    return make


@pytest.fixture
def networks():
    """A student and a teacher with fresh weights: ``networks("resnet8", "resnet20")``."""

    def make(*names):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return [timm.create_model(name, num_classes=10) for name in names]

    return make


@pytest.fixture
def distil(tmp_path, networks):
    """Runs the engine on real digits: ``distil(["at"], at={"taps": "stage2"}, epochs=2)`` returns its result."""

    def run(
        plugins, data="digits@train=64@test=32", teacher=None, student="resnet8", epochs=1, observers=(), train=None, **options
    ):
        teacher = networks("resnet20")[0] if teacher is None else teacher
        fixed = {"precision": "fp32", "augment": "none", "device": "cpu", "schedule": "constant", "lr": 0.01, "epochs": epochs}
        options = {name.replace("_", "-"): values for name, values in options.items()}
        engine = Engine(
            teacher, student, plugins, data, options=options, observers=observers, out=tmp_path / "run", **fixed | (train or {})
        )
        return engine.fit()

    return run


@pytest.fixture
def one_step(distil, networks):
    """One update of a run on one batch: its loss terms, and what the networks showed, taken without the engine."""

    def run(plugins, teacher_name="resnet20", count=8, **options):
        student, teacher = networks("resnet8", teacher_name)
        data = load_data(f"digits@train={count}@test=8")
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
        x = (data.train.images.float() / 255 - mean) / std
        # before the run, which trains the student in place
        shown = [look_inside(copy.deepcopy(student).train(), x), look_inside(copy.deepcopy(teacher).eval(), x)]
        result = distil(plugins, data=data.name, student=student, teacher=teacher, train={"lr": 1e-12}, **options)
        return [record["terms"] for record in result.history], *shown, data.train.labels.numpy()

    return run


def look_inside(network, x):
    """What a zoo network computes, as float64 arrays: stage1 to stage3, embedding and logits."""
    shown = {"stage0": network.act1(network.bn1(network.conv1(x)))}
    for number, layer in enumerate((network.layer1, network.layer2, network.layer3), 1):
        shown[f"stage{number}"] = layer(shown[f"stage{number - 1}"])
    shown["embedding"] = shown["stage3"].mean((2, 3))
    shown["logits"] = network.fc(shown["embedding"])
    return {name: tensor.detach().double().numpy() for name, tensor in shown.items()}

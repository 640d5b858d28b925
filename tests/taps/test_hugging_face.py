"""Vision networks of Hugging Face, configured small and made by a factory, as a user names them."""

from pathlib import Path

import pytest
import torch

from kdengine.networks.models import ModelSource
from kdengine.networks.network import Network
from kdengine.plugins.registry import Registry
from kdengine.taps import Recorder
from kdengine.tasks import Classification

transformers = pytest.importorskip("transformers")

FACTORIES = """
import transformers

TOKENS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}
WIDTHS = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


def made(kind, num_classes, **options):
    config = getattr(transformers, f"{kind}Config")(num_labels=num_classes, **options)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


def vit(num_classes, img_size):
    return made("ViT", num_classes, image_size=img_size, **TOKENS)


def deit(num_classes, img_size):
    return made("DeiT", num_classes, image_size=img_size, **TOKENS)


def swin(num_classes, img_size):
    sizes = {"embed_dim": 16, "depths": [1, 2, 1], "num_heads": [1, 2, 4], "window_size": 4, "patch_size": 4}
    return made("Swin", num_classes, image_size=img_size, **sizes)


def convnext(num_classes):
    return made("ConvNext", num_classes, **WIDTHS)


def resnet(num_classes):
    return made("ResNet", num_classes, embedding_size=8, layer_type="basic", **WIDTHS)


def pvt(num_classes, img_size):
    return made("Pvt", num_classes, image_size=img_size, num_attention_heads=[1, 1, 2, 2], **WIDTHS)
"""

NETWORKS = {
    "vit": ([(32, 8)] * 3, 32),
    "deit": ([(32, 8)] * 3, 32),
    "swin": ([(16, 16), (32, 8), (64, 4)], 64),
    "convnext": ([(8, 16), (16, 8), (24, 4), (32, 2)], 32),
    "resnet": ([(8, 16), (16, 8), (24, 4), (32, 2)], 32),
    "pvt": ([(8, 16), (16, 8), (24, 4), (32, 2)], 32),
}
"""Name -> stages as (channels, side), and the width of the embedding."""


@pytest.fixture
def network(tmp_path, monkeypatch, request):
    module = f"networks_{Path(tmp_path).name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    spec = f"python:{module}:{request.param}"
    model = ModelSource(spec, {"num_classes": 7}, (3, 64, 64), Registry()).create(seed=0).eval()
    return request.param, Network.probed(spec, model, (3, 64, 64), Classification(7))


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_networks_of_hugging_face_have_stages_an_embedding_and_logits(network):
    name, found = network
    stages, width = NETWORKS[name]
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), Recorder(found.module, ["stages", "embedding", "stem"], found.anatomy) as recorder:
        trace = recorder(images)
        expected = found.module(images).logits
    recorded = [trace[f"stage{number}"] for number in range(1, found.anatomy.num_stages + 1)]
    assert [tuple(stage.shape) for stage in recorded] == [(2, channels, side, side) for channels, side in stages]
    assert trace["embedding"].shape == (2, width)
    assert torch.equal(trace.logits, expected)
    classifier = found.module.get_submodule(found.anatomy.classifier)
    assert torch.allclose(classifier(trace["embedding"]), expected, atol=1e-5)


@pytest.mark.parametrize("network", ["vit", "deit", "convnext", "resnet"], indirect=True)
def test_their_stages_are_the_hidden_states_that_they_return(network):
    _, found = network
    recorded, output = stages_of(found)
    hidden = [on_its_grid(state) for state in output.hidden_states[1:]]  # the first is the stem
    assert len(hidden) == len(recorded)
    assert all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(recorded, hidden, strict=True))


@pytest.mark.parametrize("network", ["swin"], indirect=True)
def test_a_stage_that_shrinks_its_map_at_the_end_is_recorded_before_that(network):
    _, found = network
    recorded, output = stages_of(found)
    tokens = recorded[0].flatten(2).transpose(1, 2)
    with torch.no_grad():
        smaller = found.module.swin.encoder.layers[0].downsample(tokens, recorded[0].shape[2:])
    assert torch.allclose(on_its_grid(smaller), output.reshaped_hidden_states[1], atol=1e-5)


def stages_of(found):
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), Recorder(found.module, ["stages"], found.anatomy) as recorder:
        trace = recorder(images)
        return [trace[stage] for stage in trace], found.module(images, output_hidden_states=True)


def on_its_grid(state):
    """Tokens [B, prefix + 64, C] as [B, C, 8, 8]; maps as they are."""
    return state[:, -64:].transpose(1, 2).reshape(2, -1, 8, 8) if state.ndim == 3 else state

"""What is recorded in a forward equals, number for number, what other ways to the same features give."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from kdengine.errors import TapError
from kdengine.taps import Anatomy, Recorder

NETWORKS = {
    "test_resnet": {},
    "test_convnext": {},
    "test_vit": {"img_size": 64, "depth": 2},
    "test_efficientnet": {},
    "lcnet_035": {},
    "mobilenetv3_small_050": {},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2, 2, 2)},
    "hiera_tiny_224": {"img_size": 128, "embed_dim": 16, "stages": (1, 2, 1, 1)},
    "crossvit_tiny_240": {"depth": ((1, 2, 0), (1, 1, 0))},
    "tnt_s_patch16_224": {"img_size": 64, "depth": 3},
    "coat_tiny": {"img_size": 64, "parallel_depth": 1},
    "hrnet_w18_small": {},
    "twins_svt_small": {"img_size": 64, "depths": (2, 1, 2, 1)},
    "mvitv2_tiny": {"img_size": 64},
    "pit_ti_224": {},
    "efficientformer_l1": {},
    "levit_128s": {},
    "cait_xxs24_224": {"img_size": 64, "depth": 3},
    "vit_wee_patch16_reg1_gap_256": {"img_size": 64, "depth": 3},
}
"""One network or more of what timm knows: plain maps, channels last, tokens, tuples, windows, several sizes at once."""

SEVERAL = ["test_resnet", "test_convnext", "test_vit", "swin_tiny_patch4_window7_224", "hiera_tiny_224", "crossvit_tiny_240"]


def drawn(model):
    """Every parameter drawn anew, so that no branch is nearly zero, as layer scale makes it in a fresh network."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.add_(torch.rand(parameter.shape, generator=generator), alpha=0.3)
    return model.eval()


def made(name):
    """A network of few layers with 10 classes, and two images for it."""
    model = drawn(timm.create_model(name, num_classes=10, **NETWORKS[name]))
    config, side = model.pretrained_cfg, NETWORKS[name].get("img_size")
    side = side or (config["input_size"][1] if config.get("fixed_input_size") else 64)
    return model, torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def recorded(model, images, taps):
    with torch.no_grad(), Recorder(model, taps) as recorder:
        return recorder(images)


def stages_in(trace):
    return [trace[name] for name in trace if name.startswith("stage")]


def close(one, other):
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_stages_are_the_maps_that_timm_returns(name):
    model, images = made(name)
    stages = stages_in(recorded(model, images, ["stages"]))
    with torch.no_grad():
        expected = model.forward_intermediates(images, intermediates_only=True)
    assert len(expected) - len(stages) in (0, 1)  # the first may be the stem
    for mine, theirs in zip(reversed(stages), reversed(expected), strict=False):
        assert close(mine, theirs)
        assert mine.std() > 1e-3


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("crossvit")])
def test_the_embedding_is_what_timm_hands_to_the_last_layer(name):
    model, images = made(name)
    embedding = recorded(model, images, ["embedding"])["embedding"]
    with torch.no_grad():
        assert close(embedding, model.forward_head(model.forward_features(images), pre_logits=True))


def test_the_embedding_of_several_heads_is_the_last_ones():
    model, images = made("crossvit_tiny_240")
    embedding = recorded(model, images, ["embedding"])["embedding"]
    with torch.no_grad():
        both = model.forward_head(model.forward_features(images), pre_logits=True)
    assert close(embedding, both[:, -embedding.shape[1] :])


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_recorded_does_not_depend_on_where_the_forward_stops(name):
    model, images = made(name)
    whole, anatomy = recorded(model, images, ["stages"]), Anatomy.of(model, images.shape[1:])
    last = f"stage{anatomy.num_stages}"
    with torch.no_grad(), Recorder(model, ["stage1", last], anatomy, stop=True) as recorder:
        trace = recorder(images)
    assert torch.equal(trace["stage1"], whole["stage1"])
    assert torch.equal(trace[last], whole[last])
    assert not trace.has_logits


def test_tokens_in_the_order_of_windows_are_put_back_into_that_of_the_image():
    """Where its block adds nothing, the first stage of Hiera is its patches, as a convolution makes them, and their places."""
    model, images = made("hiera_tiny_224")
    with torch.no_grad():
        for layer in (model.blocks[0].attn.proj, model.blocks[0].mlp.fc2):
            layer.weight.zero_()
            layer.bias.zero_()
        patches = model.patch_embed.proj(images)
        places = model.pos_embed.detach().reshape(1, *patches.shape[2:], -1).permute(0, 3, 1, 2)
    trace = recorded(model, images, ["stage1", "blocks.0", "stem"])
    assert close(trace["stage1"], patches + places)
    assert close(trace["stem"], patches)
    listed_row_by_row = trace["blocks.0"].transpose(1, 2).reshape(patches.shape)
    assert not close(listed_row_by_row, patches + places)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "model",
    [
        lambda: timm.create_model("test_resnet"),
        lambda: timm.create_model("test_convnext"),
        lambda: timm.create_model("lcnet_035"),
        lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
        lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10),
        lambda: torchvision.models.densenet.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10),
    ],
    ids=["resnet", "convnext", "mobilenetv3 of timm", "mobilenetv3", "shufflenetv2", "densenet"],
)
def test_the_stages_are_the_nodes_of_a_traced_graph(model):
    network, images = drawn(model()), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    anatomy = Anatomy.of(network, (3, 64, 64))
    modules = {name: str(point) for name, point in anatomy.resolve("stages").items() if str(point) in anatomy.modules}
    assert len(modules) >= 3
    trace = recorded(network, images, list(modules))
    with torch.no_grad():
        nodes = create_feature_extractor(copy.deepcopy(network), return_nodes=list(modules.values()))(images)
    for name, path in modules.items():
        assert close(trace[name], nodes[path])


@pytest.mark.parametrize("name", SEVERAL)
def test_nothing_remains_on_a_network(name):
    model, images = made(name)
    with torch.no_grad():
        before = model(images)
    attributes = [sorted(vars(module)) for module in model.modules()]
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    recorded(model, images, ["stages", "stages.pre", "embedding", "stem"])
    assert [sorted(vars(module)) for module in model.modules()] == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert torch.equal(twin(images), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_compiled_network_is_recorded_as_it_is(name):
    model, images = made(name)
    plain = recorded(model, images, ["stages", "stem", "embedding"])
    torch.compiler.reset()
    compiled = recorded(torch.compile(model, backend="eager"), images, ["stages", "stem", "embedding"])
    assert list(compiled) == list(plain)
    assert all(close(compiled[tap], plain[tap]) for tap in plain)
    assert close(compiled.logits, plain.logits)


def test_a_network_that_was_compiled_before_it_was_tapped_never_gives_an_old_tensor():
    model, images = made("test_resnet")
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(images)
    with torch.no_grad(), Recorder(compiled, ["stages"]) as recorder, pytest.raises(TapError, match="did not fire"):
        recorder(images)

from dataclasses import dataclass

import kdzoo  # noqa: F401  (registers the CIFAR networks with timm)
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from kdengine.errors import TapError
from kdengine.taps import Anatomy


def conv(width_in, width_out, stride=1):
    return nn.Conv2d(width_in, width_out, 3, stride, padding=1)


class Flat(nn.Module):
    """Convolutions side by side, with functions between them."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(3, 8), conv(8, 16)
        self.conv3, self.conv4 = conv(16, 32), conv(32, 32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x), inplace=True)
        x = self.conv4(x).relu_()
        return self.fc(x.mean((2, 3)))


class Block(nn.Module):
    """A residual block with functions, which takes its shortcut by keyword and returns a record."""

    def __init__(self, width_in, width_out, stride=1):
        super().__init__()
        self.conv1, self.conv2 = conv(width_in, width_out, stride), conv(width_out, width_out)
        self.bn1, self.bn2 = nn.BatchNorm2d(width_out), nn.BatchNorm2d(width_out)
        self.down = nn.Conv2d(width_in, width_out, 1, stride)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.down(x))


class PreBlock(nn.Module):
    """The block of wide residual networks: activations first, the sum last."""

    def __init__(self, width_in, width_out, stride=1):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width_in), conv(width_in, width_out, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width_out), conv(width_out, width_out)
        self.down = nn.Conv2d(width_in, width_out, 1, stride)

    def forward(self, x):
        out = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(out))) + self.down(x)


@dataclass
class Output:
    loss: torch.Tensor | None
    logits: torch.Tensor
    features: torch.Tensor


class Nested(nn.Module):
    """A stem, stages in a container, and a head, with the output of choice."""

    def __init__(self, block=Block, wrap=lambda logits, features: logits):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.body = nn.ModuleList(
            nn.Sequential(block(a, b, stride), block(b, b)) for a, b, stride in [(8, 8, 1), (8, 16, 2), (16, 32, 2)]
        )
        self.norm = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 10)
        self.wrap = wrap

    def forward(self, x):
        x = self.stem(x)
        for stage in self.body:
            x = stage(x)
        vector = F.relu(self.norm(x)).mean((2, 3)) if isinstance(self.body[0][0], PreBlock) else x.mean((2, 3))
        return self.wrap(self.fc(vector), x)


def shapes(anatomy):
    return {name: tuple(anatomy.tensor(point).shape[1:]) for name, point in anatomy.canonical.items()}


def places(anatomy):
    return {name: str(point) for name, point in anatomy.canonical.items()}


def test_the_canonical_names_of_the_zoo_and_of_timm():
    assert places(Anatomy.of(timm.create_model("resnet8"), (3, 32, 32))) == {
        "stem": "act1",
        "stage1": "layer1",
        "stage1.pre": "layer1.0.act2:in",
        "stage2": "layer2",
        "stage2.pre": "layer2.0.act2:in",
        "stage3": "layer3",
        "stage3.pre": "layer3.0.act2:in",
        "embedding.map": "layer3",
        "embedding": "fc:in",
        "logits": "the network",
    }


def test_a_flat_network_of_functions_has_its_stages():
    anatomy = Anatomy.of(Flat(), (3, 32, 32))
    assert places(anatomy) == {
        "stem": "relu()",
        "stage1": "relu()#1",
        "stage1.pre": "relu():in#1",
        "stage2": "relu()#3",
        "stage2.pre": "relu():in#3",
        "embedding.map": "relu()#3",
        "embedding": "fc:in",
        "logits": "the network",
    }
    assert shapes(anatomy)["stage1"] == (16, 16, 16)
    assert shapes(anatomy)["stage2"] == (32, 8, 8)
    assert anatomy.num_stages == 2
    assert anatomy.classifier == "fc"


def test_a_nested_network_of_functions_has_its_stages():
    anatomy = Anatomy.of(Nested(), (3, 32, 32))
    assert shapes(anatomy) == {
        "stem": (8, 32, 32),
        "stage1": (8, 32, 32),
        "stage1.pre": (8, 32, 32),
        "stage2": (16, 16, 16),
        "stage2.pre": (16, 16, 16),
        "stage3": (32, 8, 8),
        "stage3.pre": (32, 8, 8),
        "embedding.map": (32, 8, 8),
        "embedding": (32,),
        "logits": (10,),
    }
    assert places(anatomy)["stem"] == "stem"
    assert places(anatomy)["stage2"] == "body.1"
    assert places(anatomy)["stage2.pre"] == "body.1.1.relu():in#1"


def test_before_the_activation_of_a_stage_that_ends_in_a_sum_is_the_sum():
    found = places(Anatomy.of(Nested(PreBlock), (3, 32, 32)))
    assert found["stage1"] == found["stage1.pre"] == "body.0"
    assert (found["stage3"], found["stage3.pre"]) == ("relu()", "relu():in")


def test_a_sum_in_place_after_the_activation_is_not_taken_for_the_activation():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = conv(8, 8), nn.ReLU(inplace=True)

        def forward(self, x):
            out = self.act(self.conv(x))
            out += x
            return out

    net = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.Sequential(Late(), Late()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    found = places(Anatomy.of(net, (3, 32, 32)))
    assert found["stage1"] == found["stage1.pre"] == "1.0"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits, features: (logits, features),
        lambda logits, features: {"features": features, "logits": logits},
        lambda logits, features: Output(None, logits, features),
        lambda logits, features: ((logits, features), None),
    ],
    ids=["tuple", "dict", "dataclass", "nested"],
)
def test_networks_with_any_output_have_the_same_anatomy(wrap):
    wrapped, plain = Anatomy.of(Nested(wrap=wrap), (3, 32, 32)), Anatomy.of(Nested(), (3, 32, 32))
    assert places(wrapped) == places(plain)
    assert shapes(wrapped) == shapes(plain)


def test_a_wide_image_has_wide_stages():
    found = shapes(Anatomy.of(Nested(), (3, 32, 48)))
    assert found["stage1"] == (8, 32, 48)
    assert found["stage3"] == (32, 8, 12)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=(64, 32), depth=2)
    assert shapes(Anatomy.of(vit, (3, 64, 32)))["stage1"] == (192, 4, 2)


def test_a_wrapper_does_not_change_the_names():
    class Module(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    plain = Anatomy.of(timm.create_model("resnet8"), (3, 32, 32))
    for wrap in (Module, torch.compile, lambda model: Module(torch.compile(model))):
        wrapped = Anatomy.of(wrap(timm.create_model("resnet8")), (3, 32, 32))
        assert places(wrapped) == places(plain)
        assert wrapped.modules == plain.modules
        assert wrapped.name == plain.name


def test_fabrics_wrapper_around_another_does_not_change_the_names():
    class Wrapper(nn.Module):
        def __init__(self, forward_module, original):
            super().__init__()
            self._forward_module, self._original_module = forward_module, original

        def forward(self, x):
            return self._forward_module(x)

    net = timm.create_model("resnet8")
    anatomy = Anatomy.of(Wrapper(nn.DataParallel(net), net), (3, 32, 32))
    assert anatomy.canonical["stage1"].path == "layer1"


def test_stages_are_all_stages_and_negative_stages_count_from_the_end():
    anatomy = Anatomy.of(timm.create_model("resnet8"), (3, 32, 32))
    assert list(anatomy.resolve("stages")) == ["stage1", "stage2", "stage3"]
    assert list(anatomy.resolve("stage-1")) == ["stage3"]
    assert list(anatomy.resolve("stage-3.pre")) == ["stage1.pre"]


def test_globs_and_negative_indices_mean_modules():
    anatomy = Anatomy.of(timm.create_model("resnet14"), (3, 32, 32))
    assert list(anatomy.resolve("layer*")) == ["layer1", "layer2", "layer3"]
    assert list(anatomy.resolve("layer2.*.conv1:in")) == ["layer2.0.conv1:in", "layer2.1.conv1:in"]
    assert list(anatomy.resolve("layer2.-1")) == ["layer2.1"]
    assert list(anatomy.resolve("layer*.-1.act2")) == ["layer1.1.act2", "layer2.1.act2", "layer3.1.act2"]


def test_a_glob_passes_over_modules_that_never_run():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([conv(3, 3), conv(3, 3)])
            self.unused = conv(3, 3)
            self.used = conv(3, 3)

        def forward(self, x):
            return self.used(self.blocks[1](self.blocks[0](x)))

    anatomy = Anatomy.of(Lists(), (3, 8, 8), "lists")
    assert list(anatomy.resolve("*")) == ["used"]
    assert list(anatomy.resolve("blocks.*")) == ["blocks.0", "blocks.1"]
    with pytest.raises(TapError, match=r"lists: 'unused' never runs in a forward.*'kdengine inspect lists'"):
        anatomy.resolve("unused")
    with pytest.raises(TapError, match="never runs"):
        anatomy.resolve("un*")


def test_a_module_that_bears_a_canonical_name_is_meant_with_a_side():
    anatomy = Anatomy.of(Nested(), (3, 32, 32))
    assert str(anatomy.resolve("stem:in")["stem:in"]) == "stem:in"


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        (
            "layer2.0.cnv1",
            r"resnet8 has no module 'layer2\.0\.cnv1'\. Did you mean 'layer2\.0\.conv1'.*\? 'kdengine inspect resnet8' lists",
        ),
        ("stag2", r"Did you mean .*'stage2'"),
        ("zzz", r"resnet8 has no module 'zzz'\. 'kdengine inspect resnet8' lists all taps\."),
        ("layer2.-9", r"resnet8 has no module 'layer2\.-9'"),
        ("lyer*", r"resnet8 has no module 'lyer\*'"),
        ("stage4", r"resnet8 has no 'stage4': it has stem, stage1, .* embedding, logits\. 'kdengine inspect resnet8'"),
        ("stage-4", r"resnet8 has no 'stage-4'"),
        ("fc#1", r"'fc#1' asks for call 1, but 'fc' runs 1 times"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(tap, message):
    anatomy = Anatomy.of(timm.create_model("resnet8"), (3, 32, 32), "resnet8")
    with pytest.raises(TapError, match=message):
        anatomy.resolve(tap)


def test_a_network_without_maps_has_no_stages_and_says_so():
    anatomy = Anatomy.of(nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5)), (3, 2, 2), "mlp")
    assert list(anatomy.canonical) == ["embedding", "logits"]
    assert anatomy.num_stages == 0
    assert shapes(anatomy) == {"embedding": (8,), "logits": (5,)}
    for tap in ("stages", "stage1", "stage-1", "stem"):
        with pytest.raises(TapError, match=f"mlp has no '{tap}': it has embedding, logits"):
            anatomy.resolve(tap)


def test_a_module_that_runs_twice_is_ambiguous_until_a_call_is_chosen():
    act = nn.ReLU()
    anatomy = Anatomy.of(nn.Sequential(conv(3, 4), act, conv(4, 6), act), (3, 8, 8), "twice")
    with pytest.raises(TapError, match=r"'1:in' is ambiguous: it runs 2 times per forward. Choose one: '1:in#0', '1:in#1'\."):
        anatomy.resolve("1:in")
    assert anatomy.tensor(anatomy.resolve("1#1")["1#1"]).shape == (2, 6, 8, 8)


def test_a_shared_module_answers_to_all_its_names():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(conv(3, 3), nn.ReLU())
            self.second = nn.Sequential(self.first[0], nn.Flatten())

        def forward(self, x):
            return self.second(self.first(x))

    anatomy = Anatomy.of(Shared(), (3, 8, 8))
    assert anatomy.resolve("second.0#1")["second.0#1"] == anatomy.resolve("first.0#1")["first.0#1"]
    with pytest.raises(TapError, match=r"'second\.0' is ambiguous"):
        anatomy.resolve("second.0")


def test_a_module_that_passes_no_tensor_cannot_be_tapped():
    class Flag(nn.Module):
        def forward(self, flag):
            return not flag

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.flag, self.conv = Flag(), conv(3, 3)

        def forward(self, x):
            return self.conv(x) if self.flag(False) else x

    with pytest.raises(TapError, match="'flag' passes no tensor"):
        Anatomy.of(Net(), (3, 8, 8)).resolve("flag")


def test_taps_that_come_straight_from_a_relu_are_known():
    anatomy = Anatomy.of(Nested(), (3, 32, 32))
    rectified = {name for name, point in anatomy.canonical.items() if anatomy.rectified(point)}
    assert rectified == {"stem", "stage1", "stage2", "stage3", "embedding.map"}
    anatomy = Anatomy.of(Nested(PreBlock), (3, 32, 32))
    assert {name for name, point in anatomy.canonical.items() if anatomy.rectified(point)} == {
        "stem",
        "stage3",
        "embedding.map",
    }


def test_an_anatomy_keeps_no_network_and_no_memory():
    anatomy = Anatomy.of(timm.create_model("resnet8"), (3, 32, 32))
    tensors = [tensor for call in anatomy.calls for tensor in (call.input, call.output) if tensor is not None]
    assert tensors
    assert all(tensor.is_meta for tensor in tensors)
    assert anatomy.parameters == sum(parameter.numel() for parameter in timm.create_model("resnet8").parameters())


def test_stages_pre_are_the_inputs_of_the_activations_that_end_the_stages():
    anatomy = Anatomy.of(timm.create_model("resnet18"), (3, 64, 64))
    found = anatomy.resolve("stages.pre")
    assert list(found) == ["stage1.pre", "stage2.pre", "stage3.pre", "stage4.pre"]
    assert [str(point) for point in found.values()] == [f"layer{number}.1.act2:in" for number in (1, 2, 3, 4)]


def test_a_network_of_timm_without_a_classifier_has_none_though_it_looks_for_one():
    model = timm.create_model("shvit_s1", num_classes=0)
    with pytest.raises(AttributeError):
        model.get_classifier()
    anatomy = Anatomy.of(model, (3, 64, 64))
    assert anatomy.classifier is None
    assert anatomy.tensor(anatomy.canonical["embedding"]).shape == anatomy.probe.logits.shape

import re
import time

import pytest
import timm
import torch
import torchvision
from torch import nn

from kdengine.taps import Anatomy


def stages_of(model, size):
    anatomy = Anatomy.of(model, size)
    names = [f"stage{number + 1}" for number in range(anatomy.num_stages)]
    return {str(anatomy.canonical[name]): tuple(anatomy.tensor(anatomy.canonical[name]).shape) for name in names}


def tensor_at(anatomy, name):
    return anatomy.tensor(anatomy.canonical[name])


def conv(width_in, width_out, stride=1):
    return nn.Sequential(nn.Conv2d(width_in, width_out, 3, stride, padding=1), nn.ReLU())


class Excite(nn.Module):
    """A block that looks at its whole map, as squeeze-and-excitation does."""

    def __init__(self, width_in, width_out, stride):
        super().__init__()
        self.conv = conv(width_in, width_out, stride)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width_out, width_out, 1), nn.Sigmoid())

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(x)


def head(width, classes=10):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("name", "size", "stages", "embedding"),
    [
        ("test_resnet", 64, [(32, 16), (48, 8), (192, 4), (96, 2)], 96),
        ("mobilenetv3_small_050", 64, [(8, 16), (16, 8), (24, 4), (288, 2)], 1024),
        ("test_vit", 160, [(64, 10)] * 6, 64),
        ("swin_tiny_patch4_window7_224", 224, [(96, 56), (192, 28), (384, 14), (768, 7)], 768),
        ("mvitv2_tiny", 224, [(96, 56), (192, 28), (384, 14), (768, 7)], 768),
        ("twins_svt_small", 224, [(64, 56), (128, 28), (256, 14), (512, 7)], 512),
        ("xcit_nano_12_p16_224", 224, [(128, 14)] * 12, 128),
        ("hrnet_w18_small", 64, [(128, 16), (256, 8), (512, 4), (1024, 2)], 2048),
        ("mixer_s32_224", 224, [(512, 7)] * 8, 512),
        ("vgg11_bn", 64, [(128, 32), (256, 16), (512, 8), (512, 4), (512, 2)], 4096),
        ("deit_tiny_distilled_patch16_224", 224, [(192, 14)] * 12, 192),
        ("csatv2", 256, [(32, 32), (72, 16), (168, 8), (386, 4)], 386),
        ("eva02_tiny_patch14_224", 224, [(192, 16)] * 12, 192),
    ],
)
def test_families_of_timm_have_maps_as_stages_and_a_vector_as_embedding(name, size, stages, embedding):
    with torch.device("meta"):
        model = timm.create_model(name)
    anatomy = Anatomy.of(model, (3, size, size))
    found = [tensor_at(anatomy, f"stage{number + 1}") for number in range(anatomy.num_stages)]
    assert [tuple(tensor.shape) for tensor in found] == [(2, width, side, side) for width, side in stages]
    assert tensor_at(anatomy, "embedding").shape == (2, embedding)


@pytest.mark.parametrize(
    ("name", "size", "stages"),
    [
        ("resnet18", 64, {"layer1": 16, "layer2": 8, "layer3": 4, "layer4": 2}),
        ("resnet18", 32, {"layer1": 8, "layer2": 4, "layer3": 2, "layer4": 1}),
        ("mobilenet_v2", 64, {"features.1": 32, "features.3": 16, "features.6": 8, "features.13": 4, "features.18": 2}),
        ("mobilenet_v3_small", 64, {"features.1": 16, "features.3": 8, "features.8": 4, "features.12": 2}),
        ("shufflenet_v2_x0_5", 64, {"stage2": 8, "stage3": 4, "conv5": 2}),
        ("squeezenet1_1", 64, {"features.4": 15, "features.7": 7, "features.12": 3}),
        ("swin_t", 64, {"features.1": 16, "features.3": 8, "features.5": 4, "permute": 2}),
    ],
)
def test_networks_of_torchvision_have_the_last_outputs_at_each_size(name, size, stages):
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    found = stages_of(model, (3, size, size))
    assert {path: shape[-1] for path, shape in found.items()} == stages
    assert all(len(shape) == 4 for shape in found.values())


FAMILIES_OF_TORCHVISION = {
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "googlenet": "googlenet",
    "inception": "inception_v3",
    "maxvit": "maxvit_t",
    "mnasnet": "mnasnet0_5",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3": "mobilenet_v3_small",
    "regnet": "regnet_y_400mf",
    "resnet": "resnet18",
    "shufflenetv2": "shufflenet_v2_x0_5",
    "squeezenet": "squeezenet1_1",
    "swin_transformer": "swin_t",
    "vgg": "vgg11",
    "vision_transformer": "vit_b_32",
}
OF_ONE_SIZE = {"maxvit": (224, 224), "vision_transformer": (224, 224)}


def made_by_torchvision(family):
    name = FAMILIES_OF_TORCHVISION[family]
    options = {"init_weights": False} if family in ("googlenet", "inception") else {}
    if family == "regnet":  # it computes its widths from tensors, which need values
        return torchvision.models.get_model(name, num_classes=10)
    with torch.device("meta"):
        return torchvision.models.get_model(name, num_classes=10, **options)


def test_every_family_of_torchvision_is_here():
    builders = map(torchvision.models.get_model_builder, torchvision.models.list_models(module=torchvision.models))
    assert {builder.__module__.rpartition(".")[2] for builder in builders} <= set(FAMILIES_OF_TORCHVISION)


@pytest.mark.sample(4)
@pytest.mark.parametrize("family", FAMILIES_OF_TORCHVISION)
def test_every_family_of_torchvision_has_maps_a_classifier_and_a_vector_before_it(family):
    model, (rows, columns) = made_by_torchvision(family), OF_ONE_SIZE.get(family, (96, 128))
    anatomy = Anatomy.of(model, (3, rows, columns))
    stages = [tensor_at(anatomy, f"stage{number + 1}") for number in range(anatomy.num_stages)]
    assert len(stages) >= 3
    places = [stage.shape[2:].numel() for stage in stages]
    assert places == sorted(places, reverse=True)
    assert all(abs(stage.shape[2] - stage.shape[3] * rows / columns) <= 1 for stage in stages)
    assert tensor_at(anatomy, "stem").ndim == 4
    classifier = model.get_submodule(anatomy.classifier)
    width = classifier.in_features if isinstance(classifier, nn.Linear) else classifier.in_channels
    assert tensor_at(anatomy, "embedding").shape == (2, width)
    assert tensor_at(anatomy, "logits").shape == (2, 10)


def test_a_transformer_of_torchvision_has_its_blocks():
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    found = stages_of(model, (3, 32, 32))
    assert found == {f"encoder.layers.encoder_layer_{number}": (2, 8, 4, 4) for number in range(3)}


def test_a_gate_inside_a_block_makes_no_stage_and_ends_none():
    blocks = nn.Sequential(Excite(8, 16, 2), Excite(16, 32, 2), Excite(32, 32, 1), Excite(32, 64, 2))
    assert list(stages_of(nn.Sequential(conv(3, 8), blocks, *head(64)), (3, 32, 32))) == ["1.0", "1.2", "1.3"]


def test_a_stage_of_one_place_counts_but_the_pooled_vector_does_not():
    net = nn.Sequential(conv(3, 8), *(conv(8, 8, 2) for _ in range(3)), *head(8))
    assert stages_of(net, (3, 8, 8)) == {"1": (2, 8, 4, 4), "2": (2, 8, 2, 2), "3": (2, 8, 1, 1)}


@pytest.mark.parametrize("pool", [nn.AvgPool2d(4), nn.MaxPool2d(4)])
def test_pooling_to_one_place_by_a_fixed_window_makes_no_stage(pool):
    net = nn.Sequential(conv(3, 8), conv(8, 8, 2), conv(8, 8, 2), pool, nn.Flatten(), nn.Linear(8, 5))
    assert list(stages_of(net, (3, 16, 16))) == ["1", "2"]


def test_a_head_of_convolutions_is_no_stage():
    net = nn.Sequential(
        conv(3, 8), conv(8, 16, 2), conv(16, 16, 2), nn.AdaptiveAvgPool2d(1), conv(16, 32), nn.Conv2d(32, 10, 1), nn.Flatten()
    )
    anatomy = Anatomy.of(net, (3, 16, 16))
    assert list(stages_of(net, (3, 16, 16))) == ["1", "2"]
    assert tensor_at(anatomy, "embedding").shape == (2, 32)
    assert anatomy.classifier == "5"


def test_pooling_up_after_the_last_stage_hides_no_stage():
    net = nn.Sequential(conv(3, 8), conv(8, 8, 2), conv(8, 8, 2), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(392, 5))
    assert list(stages_of(net, (3, 16, 16))) == ["1", "2"]


def test_equal_blocks_are_the_stages_of_a_network_of_one_size():
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Sequential(*(conv(8, 8) for _ in range(3))), *head(8))
    assert list(stages_of(net, (3, 32, 32))) == ["1.0", "1.1", "1.2"]


class Downsampled(nn.Module):
    """A stage of two blocks that shrinks its map when it is done, and returns the map before that as well."""

    def __init__(self, width, last=False):
        super().__init__()
        self.blocks = nn.ModuleList(Excite(width, width, 1) for _ in range(2))
        self.down = nn.Identity() if last else nn.Conv2d(width, 2 * width, 2, 2)

    def forward(self, *, x):
        for block in self.blocks:
            x = block(x)
        return self.down(x), x


class Keyworded(nn.Module):
    """Nested lists of stages, called with keywords only, whose results are tuples."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8)
        self.parts = nn.ModuleList(
            [nn.ModuleList([Downsampled(8), Downsampled(16)]), nn.ModuleList([Downsampled(32, last=True)])]
        )
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x)
        for part in self.parts:
            for stage in part:
                x, _ = stage(x=x)
        return self.fc(x.mean((2, 3)))


def test_a_stage_that_shrinks_its_map_at_its_end_ends_before_that():
    assert stages_of(Keyworded(), (3, 32, 32)) == {
        "parts.0.0.blocks.1": (2, 8, 32, 32),
        "parts.0.1.blocks.1": (2, 16, 16, 16),
        "parts.1.0": (2, 32, 8, 8),
    }


def test_a_stage_that_shrinks_its_map_at_its_start_is_not_opened():
    net = nn.Sequential(conv(3, 8), *(nn.Sequential(conv(a, b, 2), Excite(b, b, 1)) for a, b in ((8, 16), (16, 32))), *head(32))
    assert list(stages_of(net, (3, 32, 32))) == ["1", "2"]


def test_a_backbone_inside_a_larger_network_is_opened():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = timm.create_model("resnet18", num_classes=0)
            self.head = nn.Linear(512, 7)

        def forward(self, x):
            return self.head(self.backbone(x))

    assert list(stages_of(Whole(), (3, 64, 64))) == [f"backbone.layer{number}" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_a_headless_network_gives_its_output_as_embedding(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    anatomy = Anatomy.of(model, (3, 224, 224))
    assert anatomy.classifier is None
    assert str(anatomy.canonical["embedding"]) == "the network"
    assert tensor_at(anatomy, "embedding").shape == anatomy.probe.logits.shape


def test_a_network_whose_head_was_put_out_gives_its_output_as_embedding():
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    anatomy = Anatomy.of(model, (3, 64, 64))
    assert anatomy.classifier is None
    assert tensor_at(anatomy, "embedding").shape == (2, 512)


def test_maps_and_tokens_without_a_head_are_pooled():
    anatomy = Anatomy.of(timm.create_model("resnet18", num_classes=0, global_pool=""), (3, 64, 64))
    assert tensor_at(anatomy, "embedding").shape == (2, 512)
    anatomy = Anatomy.of(timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="", depth=2), (3, 224, 224))
    assert tensor_at(anatomy, "embedding").shape == (2, 192)


def test_the_stem_is_what_the_first_stage_receives():
    found = {
        "resnet18": "maxpool",
        "vgg11_bn": "features.2",
        "mobilenet_v2": "features.0",
        "shufflenet_v2_x0_5": "maxpool",
        "swin_t": "features.0",
    }
    for name, stem in found.items():
        with torch.device("meta"):
            model = torchvision.models.get_model(name)
        anatomy = Anatomy.of(model, (3, 64, 64))
        assert str(anatomy.canonical["stem"]) == stem, name
        assert tensor_at(anatomy, "stem").ndim == 4


def test_where_the_first_stage_receives_the_images_the_stem_is_its_first_activation():
    def group(inputs, outputs):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, stride=2), nn.ReLU()
        )

    class Groups(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.fc = group(3, 4), group(4, 8), nn.Linear(8, 10)

        def forward(self, x):
            return self.fc(self.two(self.one(x)).mean((2, 3)))

    anatomy = Anatomy.of(Groups(), (3, 32, 32))
    assert str(anatomy.canonical["stem"]) == "one.1"
    assert tensor_at(anatomy, "stem").shape == (2, 4, 32, 32)


def test_tokens_of_every_stage_are_told_from_prefix_tokens():
    vit, none = "vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}
    for name, prefix, options in ((vit, 1, {}), ("deit_tiny_distilled_patch16_224", 2, {}), (vit, 0, none)):
        with torch.device("meta"):
            model = timm.create_model(name, **options)
        anatomy = Anatomy.of(model, model.pretrained_cfg["input_size"])
        layouts = [point.layout for key, point in anatomy.canonical.items() if re.fullmatch(r"stage\d+", key)]
        assert {(layout.kind, layout.prefix) for layout in layouts} == {("tokens", prefix)}


def test_a_large_network_is_probed_in_a_few_seconds():
    with torch.device("meta"):
        model = torchvision.models.densenet201()
    start = time.process_time()
    assert Anatomy.of(model, (3, 64, 64)).num_stages == 4
    assert time.process_time() - start < 5

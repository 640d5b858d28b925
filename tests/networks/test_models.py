import random

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from kdengine import Registry
from kdengine.errors import ModelError
from kdengine.networks.models import ModelSource, check_name, count_parameters
from kdengine.networks.network import Network
from kdengine.tasks import Classification

SMALL = (3, 32, 32)


@pytest.fixture(scope="module")
def registry():
    return Registry()


@pytest.fixture
def create(registry):
    def make(text, num_classes=7, input_size=SMALL, seed=0):
        return ModelSource(text, {"num_classes": num_classes}, input_size, registry).create(seed)

    return make


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Writes a module of factories into the working folder."""

    def write(source):
        name = f"user_networks_{len(list(tmp_path.iterdir()))}_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text("from torch import nn\n" + source)
        return f"python:{name}"

    monkeypatch.chdir(tmp_path)
    return write


def logits(model, input_size=SMALL):
    return model.eval()(torch.zeros(2, *input_size)).shape


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("text", ["resnet8", "timm:resnet8", "timm:resnet18", "torchvision:resnet18", "timm:efficientnet_b0"])
def test_a_network_of_every_scheme_has_as_many_outputs_as_classes(text, create):
    assert logits(create(text)) == (2, 7)


def test_a_bare_name_and_timm_give_the_same_network_of_the_zoo(create):
    assert same(create("resnet8"), create("timm:resnet8"))


def test_the_teacher_of_the_main_job_is_the_network_of_the_zoo(create):
    model = create("timm:resnet32", num_classes=100)
    assert type(model).__module__ == "kdzoo.cifar_resnet"
    assert count_parameters(model) == 472756  # SEEDS.md: 0.47 M


@pytest.mark.slow
def test_a_network_of_the_zoo_is_found_through_timm_before_anything_imported_the_zoo(python):
    code = """
        from kdengine import Registry
        from kdengine.networks.models import ModelSource
        print(type(ModelSource("timm:resnet32", {"num_classes": 10}, (3, 32, 32), Registry()).create(0)).__module__)
    """
    assert python(code) == "kdzoo.cifar_resnet"


def test_options_of_a_spec_reach_the_network(create):
    assert create("resnet8@drop_rate=0.25").head_drop.p == 0.25
    assert create("timm:resnet18@drop_rate=0.25").drop_rate == 0.25
    assert create("torchvision:resnet18@zero_init_residual=true@num_classes=3").fc.out_features == 3


@pytest.mark.parametrize("text", ["resnet8", "timm:resnet18", "timm:vit_tiny_patch16_224"])
def test_a_network_is_adapted_to_the_channels_of_the_data(text, create):
    assert logits(create(text, input_size=(1, 32, 32)), (1, 32, 32)) == (2, 7)


@pytest.mark.parametrize("size", [(3, 32, 32), (3, 64, 32)])
def test_a_transformer_is_adapted_to_the_size_of_the_images(size, create):
    model = create("timm:vit_tiny_patch16_224", input_size=size)
    assert model.patch_embed.grid_size == (size[1] // 16, size[2] // 16)
    assert logits(model, size) == (2, 7)


def test_a_size_that_the_spec_gives_is_kept(create):
    assert create("timm:vit_tiny_patch16_224@img_size=48").patch_embed.grid_size == (3, 3)


def test_a_network_that_takes_any_size_is_left_as_it_is(create):
    assert [tuple(p.shape) for p in create("timm:resnet18").parameters()] == [
        tuple(p.shape) for p in timm.create_model("resnet18", num_classes=7).parameters()
    ]


def test_fresh_weights_depend_on_the_seed_alone(create):
    torch.manual_seed(1)
    first = create("resnet8", seed=5)
    torch.manual_seed(2)
    assert same(first, create("resnet8", seed=5))
    assert not same(first, create("resnet8", seed=6))


def test_making_a_network_leaves_the_global_random_state_as_it_was(create):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    create("resnet8", seed=5)
    create("timm:vit_tiny_patch16_224")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def refusal(create, text, **sizes):
    with pytest.raises(ModelError) as caught:
        create(text, **sizes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resnet88", "There is no network 'resnet88'. Did you mean 'resnet8'"),
        ("resnt8", "Did you mean 'resnet8'"),
        ("vit_tiny_patch16_224", "Did you mean 'timm:vit_tiny_patch16_224'?"),
        ("resnet18", "Did you mean 'timm:resnet18' or 'torchvision:resnet18'?"),
        ("zzzz", "A network is one of timm:NAME, torchvision:NAME"),
        ("timm:resnet31", "timm has no model 'resnet31'. Did you mean"),
        ("timm:zzzz", "timm has no model 'zzzz'."),
        ("torchvision:resnet81", "torchvision has no model 'resnet81'. Did you mean"),
        ("torchvision:zzzz", "torchvision has no model 'zzzz'. 'kdengine models zzzz' searches."),
        ("keras:resnet50", "there is no scheme 'keras:'. A network is one of timm:NAME"),
        ("python:no_such_module:make", "'no_such_module' cannot be imported"),
        ("python:torch.nn:Linaer", "Did you mean 'Linear'"),
        ("timm:", "names nothing"),
        ("resnet8@depth", "'depth' is not KEY=VALUE"),
    ],
)
def test_a_name_that_names_nothing_is_answered_with_the_nearest(text, said, create, registry):
    assert said in refusal(create, text)
    with pytest.raises(ModelError):
        check_name(text, registry)


@pytest.mark.parametrize(
    "text", ["resnet8", "timm:resnet32", "timm:resnet18", "torchvision:resnet18", "python:torch.nn:Identity"]
)
def test_a_name_that_names_something_passes_without_being_built(text, registry):
    check_name(text, registry)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resnet8@dorp_rate=0.1", "unexpected keyword argument 'dorp_rate'"),
        ("timm:resnet18@dorp_rate=0.1", "unexpected keyword argument 'dorp_rate'"),
        ("torchvision:resnet18@weights=NEWEST", "NEWEST"),
    ],
)
def test_a_network_that_cannot_be_built_is_answered_with_the_data_and_the_reason(text, said, create):
    answer = refusal(create, text)
    assert f"'{text}' cannot be built with num_classes=7 for images of [3, 32, 32]" in answer
    assert said in answer


def test_a_factory_is_offered_what_it_takes(create, factory):
    module = factory(
        "def full(num_classes, in_chans, img_size, width=2):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, width), nn.Linear(width, num_classes))\n"
        "def bare():\n    return nn.Linear(3, 4)\n"
    )
    assert [tuple(p.shape) for p in create(f"{module}:full@width=5", input_size=(1, 8, 8)).parameters()][::2] == [
        (5, 64),
        (7, 5),
    ]
    assert create(f"{module}:bare").out_features == 4


def test_a_factory_that_ignores_the_number_of_classes_is_refused_when_it_is_probed(create, factory):
    module = factory("def make():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n")
    with pytest.raises(ModelError, match=r"returns \[2, 4\] for a batch of 2, but the data has 7 classes: \[2, 7\] is needed"):
        Network.probed("mine", create(f"{module}:make"), SMALL, Classification(7))


def test_a_factory_that_fails_or_makes_something_else_is_the_users_error(create, factory):
    module = factory("def fails():\n    raise RuntimeError('out of paint')\ndef listed():\n    return [1]\n")
    assert "RuntimeError: out of paint" in refusal(create, f"{module}:fails")
    assert refusal(create, f"{module}:listed").endswith("made a list, not a torch.nn.Module.")


def test_a_factory_that_ends_the_program_is_the_users_error(create):
    assert "SystemExit" in refusal(create, "python:sys:exit")


@pytest.mark.parametrize(
    ("text", "classes", "brings"),
    [
        ("resnet8", 10, False),
        ("timm:resnet18", 1000, False),
        ("timm:resnet18@pretrained=true", 1000, True),
        ("timm:resnet18@pretrained=true", 10, False),
        ("timm:resnet18@pretrained=false", 1000, False),
        ("hf-hub:timm/resnet18.a1_in1k@pretrained=false", 1000, False),
        ("torchvision:resnet18@weights=DEFAULT", 1000, True),
        ("torchvision:resnet18@weights=DEFAULT", 10, False),
        ("torchvision:fcn_resnet50@weights=DEFAULT", 21, True),
        ("torchvision:fcn_resnet50@weights_backbone=DEFAULT", 21, False),
    ],
)
def test_weights_count_as_brought_where_their_classes_are_those_of_the_data(text, classes, brings, registry):
    assert ModelSource(text, {"num_classes": classes}, SMALL, registry).brings_weights is brings


@pytest.fixture
def offline(monkeypatch):
    """Fails if weights are asked for; returns what was asked instead, once a state is given."""
    given = {}

    def load(self, *args, **kwargs):
        assert given, f"{self} would be downloaded"
        return given["state"]

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", load)
    return given


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_torchvisions_networks_for_pixels_are_made_without_any_download_and_without_auxiliary_head(name, create, offline):
    with torch.device("meta"):
        model = create(f"torchvision:{name}")
        assert getattr(model, "aux_classifier", None) is None
        assert model.eval()(torch.zeros(2, 3, 64, 64))["out"].shape == (2, 7, 64, 64)


def test_an_auxiliary_head_is_made_if_it_is_asked_for(create, offline):
    with torch.device("meta"):
        assert create("torchvision:fcn_resnet50@aux_loss=true").aux_classifier is not None
    assert "does not use auxiliary loss" in refusal(create, "torchvision:lraspp_mobilenet_v3_large@aux_loss=true")


@pytest.mark.parametrize("classes", [7, 21])
def test_pretrained_weights_for_pixels_are_loaded_without_their_auxiliary_head(classes, create, offline):
    whole = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True, num_classes=21)
    offline["state"] = whole.state_dict()
    model = create("torchvision:fcn_resnet50@weights=DEFAULT", num_classes=classes)
    assert model.aux_classifier is None
    assert torch.equal(model.backbone.conv1.weight, whole.backbone.conv1.weight)
    assert torch.equal(model.classifier[4].bias, whole.classifier[4].bias) == (classes == 21)


def test_a_plugin_offers_a_scheme_of_networks(create, registry, monkeypatch):
    def factory(name, num_classes, in_chans, img_size, width=3):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(in_chans * img_size[0] * img_size[1], width), nn.Linear(width, num_classes)
        )

    monkeypatch.setitem(registry.plugins[0].models, "wide:", factory)
    assert create("wide:any@width=4")[1].out_features == 4
    assert "unexpected keyword argument 'widht'" in refusal(create, "wide:any@widht=4")
    assert "wide:NAME" in refusal(create, "wid:any")
    assert not ModelSource("wide:any@pretrained=true", {"num_classes": 7}, SMALL, registry).brings_weights
    assert ModelSource("wide:any@pretrained=true", {"num_classes": 7}, SMALL, registry).is_pretrained


def test_parameters_are_counted_frozen_ones_included_and_buffers_not():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 6))
    model[2].requires_grad_(False)
    assert count_parameters(model) == (3 * 4 * 9 + 4) + (4 + 4) + (5 * 6 + 6)


def test_the_folder_of_a_run_in_place_of_its_network_is_told(registry, tmp_path):
    (tmp_path / "run.toml").touch()
    with pytest.raises(ModelError, match=r"is the folder of a run: name the network of that run, .* --teacher-weights"):
        check_name(str(tmp_path), registry)

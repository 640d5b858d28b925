import itertools
import json

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from kdengine import Engine, ModelError, Registry
from kdengine.config.settings import InputSettings
from kdengine.networks.models import ModelSource
from kdengine.networks.pretrained import input_of_weights, size_in_spec

HALF, IMAGENET_MEAN, IMAGENET_STD = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FAST = {"epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with one network in it, as a download would leave it."""
    snapshot = tmp_path / "hub" / "models--tiny--vit" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    config = {"input_size": [3, 160, 160], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "fixed_input_size": True}
    config |= {"num_classes": 1000, "first_conv": "patch_embed.proj", "classifier": "head"}
    (snapshot / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": config}))
    save_file(timm.create_model("test_vit").state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_weights_of_timm_say_what_they_were_made_for():
    assert input_of_weights("timm:test_vit@pretrained=true") == InputSettings(size=160, mean=HALF, std=HALF)
    assert input_of_weights("timm:resnet50@pretrained=true").mean == IMAGENET_MEAN


def test_each_set_of_weights_of_one_network_says_its_own():
    one, other = (f"timm:vit_base_patch16_{size}.augreg_in21k_ft_in1k@pretrained=true" for size in (224, 384))
    assert (input_of_weights(one).size, input_of_weights(other).size) == ((224, 224), (384, 384))
    tagged = "timm:vit_base_patch16_224@pretrained=true@pretrained_cfg=dino"
    assert input_of_weights("timm:vit_base_patch16_224.dino@pretrained=true") == input_of_weights(tagged)
    assert input_of_weights(tagged).mean == IMAGENET_MEAN != input_of_weights(one).mean


def test_what_a_spec_lays_over_the_weights_counts():
    text = "timm:test_vit@pretrained=true@pretrained_cfg_overlay.mean=[0.1, 0.2, 0.3]"
    assert input_of_weights(text) == InputSettings(size=160, mean=(0.1, 0.2, 0.3), std=HALF)


def test_networks_for_pixels_take_images_of_any_size_normalised_as_their_weights_expect():
    wanted = InputSettings(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    for option in ("weights", "weights_backbone"):
        assert input_of_weights(f"torchvision:fcn_resnet50@{option}=DEFAULT") == wanted
    assert input_of_weights("seg:resnet18@pretrained=true") == wanted
    assert input_of_weights("seg:resnet18") == input_of_weights("seg:no_such@pretrained=true") == InputSettings()


def test_weights_of_the_hub_say_what_they_were_made_for(hub):
    wanted = InputSettings(size=160, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert input_of_weights("hf-hub:tiny/vit") == wanted
    assert input_of_weights("hf-hub:tiny/vit@pretrained=false") == InputSettings()
    with pytest.raises(ModelError, match=r"'hf-hub:tiny/cnn': cannot determine the images that its pretrained weights expect"):
        input_of_weights("hf-hub:tiny/cnn")


@pytest.mark.parametrize(("classes", "brings"), [(1000, True), (10, False)])
def test_a_teacher_of_the_hub_needs_no_training_where_its_classes_are_those_of_the_data(classes, brings, hub):
    source = ModelSource("hf-hub:tiny/vit", {"num_classes": classes}, (3, 160, 160), Registry())
    assert source.brings_weights is brings


@pytest.fixture
def flowers(tmp_path):
    """A folder of images of three classes."""
    for split, (name, color) in itertools.product(("train", "test"), {"iris": 10, "lily": 120, "rose": 240}.items()):
        for number in range(4):
            file = tmp_path / "flowers" / split / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 24), (color, number, 0)).save(file)
    return f"imagefolder:{tmp_path / 'flowers'}"


@pytest.fixture
def weights_of_timm(tmp_path):
    """A spec of timm whose pretrained weights lie in a file, and their state dict."""
    state = timm.create_model("resnet14", num_classes=7).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    overlay = f"@pretrained_cfg_overlay.file={tmp_path / 'weights.safetensors'}@pretrained_cfg_overlay.num_classes=7"
    overlay += "@pretrained_cfg_overlay.mean=[0.5,0.5,0.5]@pretrained_cfg_overlay.std=[0.5,0.5,0.5]"
    return f"timm:resnet14@pretrained=true{overlay}", state


def test_a_pretrained_network_is_fine_tuned_on_a_folder_of_other_classes(flowers, weights_of_timm):
    spec, state = weights_of_timm
    plan = Engine(None, spec, data=flowers, precision="fp32", device="cpu").plan()
    own = plan.student.module.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items() if not name.startswith("fc."))
    assert own["fc.weight"].shape == (3, 64)
    assert plan.settings.train.lr == 0.01
    assert str(plan.training.followed["student"]) == "SGD, lr 0.01: a convolutional network with pretrained weights"


def test_weights_of_torchvision_are_loaded_but_for_the_head(monkeypatch):
    state = torchvision.models.squeezenet1_1().state_dict()
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda weights, **options: state)
    source = ModelSource("torchvision:squeezenet1_1@weights=DEFAULT", {"num_classes": 3}, (3, 224, 224), Registry())
    own = source.create(0).state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items() if not name.startswith("classifier."))
    assert own["classifier.1.weight"].shape == (3, 512, 1, 1)


def test_a_pretrained_teacher_of_other_classes_is_to_be_fine_tuned_first(flowers, weights_of_timm):
    spec, _ = weights_of_timm
    plan = Engine(spec, "resnet8", ["st"], flowers, precision="fp32", device="cpu").plan()
    assert plan.session.teachers[0].is_trained_first
    assert (plan.settings.train.lr, plan.settings.teacher_train["lr"]) == (0.1, 0.01)


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"])
def test_weights_of_torchvision_say_what_they_were_made_for(weights):
    found = input_of_weights(f"torchvision:squeezenet1_1@weights={weights}")
    assert found == InputSettings(size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)


@pytest.mark.parametrize(
    "text", ["resnet8", "timm:test_vit", "timm:test_vit@pretrained=false", "torchvision:resnet18", "python:torch.nn:Linear"]
)
def test_without_weights_nothing_is_said(text):
    assert input_of_weights(text) == InputSettings()


def test_weights_that_there_are_not_are_told():
    with pytest.raises(ModelError, match=r"'torchvision:resnet18@weights=IMAGENET1K_V9'.*pretrained weights expect: KeyError"):
        input_of_weights("torchvision:resnet18@weights=IMAGENET1K_V9")


def test_a_size_may_stand_in_the_spec():
    assert size_in_spec("timm:test_vit@img_size=64").size == (64, 64)
    assert size_in_spec("timm:test_vit@img_size=[32, 64]").size == (32, 64)
    assert size_in_spec("timm:test_vit") == size_in_spec("python:a.b:c@img_size=64") == InputSettings()


# Whole runs, with weights from a file in place of a download


@pytest.fixture
def pretrained(tmp_path, monkeypatch):
    """The spec of a network with weights for 1000 classes, images of 160 x 160, and a normalisation of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDENGINE_CACHE", str(tmp_path / "cache"))
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
    return f"timm:test_vit@pretrained=true@pretrained_cfg_overlay.file={tmp_path / 'vit.safetensors'}"


def received(network):
    seen = []
    network.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    return seen


def test_a_pretrained_teacher_gets_what_its_weights_were_made_for_by_itself(pretrained, tmp_path):
    settings = {**FAST, "fold_teacher": False}  # folding looks at two images first
    engine = Engine(pretrained, "resnet8", ["st"], "digits@train=8@test=16", out=tmp_path / "run", **settings)
    plan = engine.plan()
    assert plan.describe()["teacher"]["input"] == {"size": [3, 160, 160], "mean": list(HALF), "std": list(HALF)}
    assert plan.describe()["student"]["input"] == {"size": [3, 32, 32]}
    (batch, *_) = plan.session.data.test.epoch(0)
    seen = received(plan.session.teachers[0].network.module)
    assert plan.session.teachers[0].frozen.trace(batch.x, {}).logits.shape == (16, 10)
    assert seen[0].shape == (16, 3, 160, 160)
    pixels = plan.session.data.dataset.test.images.double() / 255
    assert seen[0].mean().item() == pytest.approx(float((pixels.mean() - 0.5) / 0.5), abs=2e-3)
    result = engine.fit()
    assert result.facts["teacher"]["input"] == {"size": [3, 160, 160], "mean": list(HALF), "std": list(HALF)}
    assert result.facts["teacher"]["epochs"] == 1, "its head is new, so it was trained first"


@pytest.mark.parametrize("said", [{"size": 64}, {"size": [48, 64], "mean": (0.3, 0.3, 0.3)}])
def test_what_the_settings_say_goes_before_the_weights(said, pretrained):
    session = Engine(pretrained, "resnet8", ["st"], "digits@train=8@test=16", teacher_input=said, **FAST).session()
    wanted = InputSettings(**said)
    assert session.teachers[0].network.preprocess.wanted.size == (3, *wanted.size)
    assert session.teachers[0].network.preprocess.wanted.mean == (wanted.mean or HALF)
    assert session.teachers[0].network.preprocess.wanted.std == HALF
    assert session.teachers[0].network.module.patch_embed.grid_size == tuple(side // 16 for side in wanted.size)


def test_a_pretrained_assistant_and_a_pretrained_peer_get_what_they_were_made_for(pretrained, tmp_path):
    options = {"takd": {"assistants": [pretrained]}}
    chained = Engine("resnet8", "resnet8", ["takd"], "digits@train=8@test=16", options=options, **FAST).plan()
    assistant = chained.lane.chain[0].student
    assert (assistant.input_size, assistant.preprocess.wanted.mean) == ((3, 160, 160), HALF)
    options = {"dml": {"peers": [pretrained]}}
    cohort = Engine("resnet8", "resnet8", ["dml"], "digits@train=8@test=16", options=options, **FAST).plan()
    (peer,) = cohort.lane.module.methods["dml"].peers
    (batch, *_) = cohort.session.data.test.epoch(0)
    assert peer(batch.x).shape == (16, 10)


def test_a_network_of_the_hub_can_be_taught(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = "digits@train=8@test=16"
    plan = Engine(None, "hf-hub:tiny/vit", data=data, student_input={"size": 64}, **FAST).plan()
    assert plan.student.input_size == (3, 64, 64)
    assert plan.student.preprocess.wanted.mean == (0.1, 0.2, 0.3)
    assert plan.student.module.patch_embed.grid_size == (4, 4)

import pytest
import timm
import torch
from torch import nn

from kdengine.config.settings import ConcreteTrain, TrainSettings
from kdengine.training.defaults import OPEN, follow

CNN = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 2))
BY_LAYER = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.LayerNorm(4), nn.Linear(4, 2))


class RmsNorm(nn.Module):
    """A normalisation of an author's own."""


def values(network=CNN, attends=False, pretrained=False, **settings):
    return tuple(follow(network, TrainSettings(**settings), attends=attends, pretrained=pretrained).values.values())


def test_a_convolutional_network_from_scratch_is_trained_as_ever():
    assert values() == ("sgd", 0.1, 5e-4, 0, 0.0)
    followed = follow(CNN, TrainSettings())
    assert str(followed) == "SGD, lr 0.1: a convolutional network from scratch"
    assert followed.settings.concrete == ConcreteTrain() == TrainSettings().concrete


def test_networks_with_attention_and_those_normalised_by_layer_get_adamw_and_a_warm_up():
    assert values(BY_LAYER) == values(CNN, attends=True) == ("adamw", 1e-3, 0.05, 3, 1.0)
    text = "AdamW, lr 0.001, weight decay 0.05, 3 epochs of warm-up, gradients clipped at 1: a network "
    assert str(follow(CNN, TrainSettings(), attends=True)) == text + "with attention from scratch"
    assert str(follow(BY_LAYER, TrainSettings())) == text + "normalised by LayerNorm from scratch"


@pytest.mark.parametrize(
    ("network", "optimizer"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)), "sgd"),  # no normalisation at all
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), "sgd"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), RmsNorm()), "adamw"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), *[nn.Linear(4, 4) for _ in range(3)]), "adamw"),  # tokens of patches
        (nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)]), "sgd"),
    ],
)
def test_it_goes_by_the_layers(network, optimizer):
    assert follow(network, TrainSettings()).settings.optimizer == optimizer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        *(
            (name, "sgd")
            for name in ("resnet18", "vgg11", "densenet121", "efficientnet_b0", "resnetv2_50x1_bit", "dm_nfnet_f0")
        ),
        *((name, "adamw") for name in ("convnext_atto", "mixer_s16_224", "resmlp_12_224", "poolformer_s12", "gmlp_s16_224")),
    ],
)
def test_families_of_timm_without_attention(name, optimizer):
    with torch.device("meta"):
        network = timm.create_model(name)
    assert follow(network, TrainSettings()).settings.optimizer == optimizer


def test_pretrained_weights_get_a_tenth_of_the_rate_and_it_says_why():
    assert values(pretrained=True) == ("sgd", 0.01, 5e-4, 0, 0.0)
    assert values(attends=True, pretrained=True) == ("adamw", 1e-4, 0.05, 3, 1.0)
    followed = follow(CNN, TrainSettings(), pretrained=True)
    assert str(followed) == "SGD, lr 0.01: a convolutional network with pretrained weights"
    assert followed.why["lr"] == "a tenth of 0.1, because the weights are pretrained"


def test_what_is_set_wins_and_the_rest_goes_with_it():
    given = {"optimizer": "lion", "lr": 0.3, "weight_decay": 0.0, "warmup_epochs": 0, "clip_grad": 0.0}
    followed = follow(CNN, TrainSettings(**given), attends=True, pretrained=True)
    assert followed.values == given
    assert set(followed.why.values()) == {"as set"}
    assert str(followed) == "lion, lr 0.3, weight decay 0: as set"
    assert values(optimizer="AdamW") == ("AdamW", 1e-3, 0.05, 0, 0.0)
    assert values(attends=True, optimizer="sgd") == ("sgd", 0.1, 5e-4, 3, 1.0)
    assert values(lr=0.02) == ("sgd", 0.02, 5e-4, 0, 0.0)
    assert values(lr="auto", clip_grad="auto") == values()


def test_rate_and_warm_up_go_by_batch_and_epochs():
    rates = {size: follow(BY_LAYER, TrainSettings(batch_size=size)).settings.lr for size in (8, 32, 128, 4096)}
    assert rates == {8: 2.5e-4, 32: 5e-4, 128: 1e-3, 4096: 1e-3}
    warmups = [follow(BY_LAYER, TrainSettings(epochs=count)).settings.warmup_epochs for count in (1, 9, 10, 30, 300)]
    assert warmups == [0, 0, 1, 3, 5]


def test_every_setting_that_may_be_left_open_is_followed():
    opened = {name for name, field in TrainSettings.model_fields.items() if field.default is None}
    assert set(OPEN) == {
        name for name in opened if name in ConcreteTrain.model_fields and ConcreteTrain.model_fields[name].default is not None
    }

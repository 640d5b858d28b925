import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdengine import Engine, SettingsError
from kdengine.config.settings import InputSettings, Settings, from_assignments
from kdengine.networks.inputs import ImageSpec
from kdengine.networks.preprocess import preprocess_for

DATA = ImageSpec((3, 32, 32), (0.3, 0.3, 0.3), (0.4, 0.4, 0.4))
UNKNOWN = ImageSpec((3, 32, 32))
PRETRAINED = "timm:test_vit@pretrained=true"
FAST = {"epochs": 1, "precision": "fp32", "device": "cpu", "lr": 0.02}


@pytest.mark.parametrize("network", ["resnet8", "timm:resnet18", "timm:test_vit", nn.Identity()])
@pytest.mark.parametrize("images", [DATA, UNKNOWN])
def test_without_weights_of_its_own_a_network_gets_the_images_of_the_data(network, images):
    preprocess = preprocess_for(network, images)
    assert preprocess.wanted == preprocess.given == images
    assert not preprocess.changes


def test_with_weights_of_its_own_it_gets_what_they_were_made_for():
    wanted = preprocess_for(PRETRAINED, DATA).wanted
    assert wanted == ImageSpec((3, 160, 160), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_each_part_that_is_said_goes_before_the_weights_and_the_data():
    given = InputSettings(size=(24, 40), std=(0.1, 0.2, 0.3))
    assert preprocess_for("resnet8", DATA, given).wanted == ImageSpec((3, 24, 40), DATA.mean, (0.1, 0.2, 0.3))
    assert preprocess_for(PRETRAINED, DATA, given).wanted == ImageSpec((3, 24, 40), (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert preprocess_for(nn.Identity(), DATA, given).wanted.size == (3, 24, 40)


def test_a_size_in_the_spec_goes_before_that_of_the_weights_but_not_before_the_settings():
    spec = f"{PRETRAINED}@img_size=64"
    assert preprocess_for(spec, DATA).wanted.size == (3, 64, 64)
    assert preprocess_for(spec, DATA, InputSettings(size=48)).wanted.size == (3, 48, 48)


def test_weights_that_were_adapted_to_grey_images_get_the_mean_over_their_channels():
    grey = ImageSpec((1, 32, 32), (0.3,), (0.4,))
    wanted = preprocess_for("timm:resnet18@pretrained=true", grey).wanted
    assert (wanted.mean, wanted.std) == (pytest.approx((0.449,)), pytest.approx((0.226,)))


def test_of_loaders_nobody_knows_the_normalisation_so_only_a_size_that_is_said_counts():
    assert not preprocess_for(PRETRAINED, UNKNOWN).changes
    fit = preprocess_for(PRETRAINED, UNKNOWN, InputSettings(size=64))
    assert (fit.wanted.size, fit.normalises) == ((3, 64, 64), False)
    with pytest.raises(SettingsError, match=r"teacher_input.std = \[0.1, 0.1, 0.1\] cannot be applied to images from your own"):
        preprocess_for("resnet8", UNKNOWN, InputSettings(std=(0.1,) * 3), "teacher_input")


def test_a_normalisation_for_other_channels_is_refused():
    with pytest.raises(SettingsError, match=r"student_input.mean = \[0.5\] has 1 numbers, but the images have 3 channels"):
        preprocess_for("resnet8", DATA, InputSettings(mean=(0.5,)), "student_input")


# Settings


def test_one_number_is_both_sides():
    assert InputSettings(size=224).size == (224, 224)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 0}, "teacher_input.size = 0: a number of pixels below 65536 is needed, such as 224, or [ROWS, COLUMNS]."),
        ({"size": True}, "teacher_input.size = True: a number of pixels"),
        ({"size": "large"}, "teacher_input.size = 'large': a number of pixels"),
        ({"size": [3, 64, 64]}, "teacher_input.size = [3, 64, 64]: a number of pixels"),
        ({"size": [64, 0.5]}, "teacher_input.size = [64, 0.5]: a number of pixels"),
        ({"mean": 0.5}, "teacher_input.mean = 0.5: one number for each channel is needed"),
        ({"mean": []}, "teacher_input.mean = []: one number for each channel is needed"),
        ({"std": ["a"]}, "teacher_input.std = ['a']: one number for each channel is needed"),
        ({"std": [0.1, 0, 0.1]}, "teacher_input.std.1 = 0: it must be greater than 0."),
        ({"crop": 3}, "There is no option 'teacher_input.crop'. It has size, mean, std."),
        (64, "teacher_input = 64: set its parts one by one (size, mean, std), for example teacher_input.size=224."),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(given, message):
    with pytest.raises(SettingsError) as caught:
        Settings.checked({"student": "resnet8", "teacher_input": given})
    assert str(caught.value).startswith(message)


def test_they_can_be_assigned_on_the_command_line():
    texts = ["teacher_input.size=64", "student_input.mean=[0.1, 0.2, 0.3]"]
    settings = Settings.checked({"student": "resnet8", **from_assignments(texts)})
    assert settings.teacher_input.size == (64, 64)
    assert settings.student_input.mean == (0.1, 0.2, 0.3)


# Loaders of one's own


def loader(size=32, count=8):
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, torch.arange(count) % 4), batch_size=4)


def test_with_loaders_of_ones_own_a_module_can_take_another_size(tmp_path):
    teacher = timm.create_model("test_vit", img_size=64, num_classes=6)
    seen = []
    teacher.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[2:])))
    engine = Engine(teacher, "resnet8", ["st"], teacher_input={"size": 64}, out=tmp_path / "run", **FAST)
    result = engine.fit(loader(), loader())
    assert set(seen) == {(64, 64)}
    assert result.facts["teacher"]["input"] == {"size": [3, 64, 64]}
    assert result.facts["student"]["input"] == {"size": [3, 32, 32]}
    assert result.student(torch.zeros(1, 3, 32, 32)).shape == (1, 6), "the teacher knows of classes that no image shows"


def test_with_loaders_of_ones_own_a_normalisation_is_refused_before_anything_is_written(tmp_path):
    engine = Engine(None, "resnet8", student_input={"mean": [0.5] * 3}, out=tmp_path / "run", **FAST)
    with pytest.raises(SettingsError, match=r"student_input.mean = \[0.5, 0.5, 0.5\] cannot be applied"):
        engine.fit(loader(), loader())
    assert not (tmp_path / "run").exists()


def test_what_weights_were_trained_on_comes_after_the_settings_and_before_the_data():
    trained_on = InputSettings(size=24, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    wanted = ImageSpec((3, 24, 24), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert preprocess_for("resnet8", DATA, trained_on=trained_on).wanted == wanted
    assert preprocess_for(nn.Identity(), DATA, trained_on=trained_on).wanted == wanted
    assert preprocess_for("resnet8", DATA, InputSettings(size=48), trained_on=trained_on).wanted.size == (3, 48, 48)
    assert not preprocess_for("resnet8", UNKNOWN, trained_on=trained_on).changes

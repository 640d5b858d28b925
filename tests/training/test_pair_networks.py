import copy

import pytest
import timm
import torch
from torch import nn

from kdengine import KDError, ModelError, TapError
from kdengine.methods.head import classify
from kdengine.networks.network import Network
from kdengine.seeds import seeded
from kdengine.taps import Recorder
from kdengine.tasks.classification import Classification
from kdengine.testing.networks import tiny_pair, vit_pair
from kdengine.training.pair_networks import BuildingNetworks

SIZE = (3, 32, 32)
FAMILIES = ["mobilenetv3_small_050", "vit_tiny_patch16_224", "test_convnext", "test_efficientnet"]


def networks(teacher, student=None, size=SIZE):
    teacher, student = (
        network and Network.probed("net", network.eval(), size, Classification(10)) for network in (teacher, student)
    )
    return BuildingNetworks(student or teacher, teacher)


def images(count=3, size=SIZE):
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(3))


def recorded(network, *taps):
    with torch.no_grad(), Recorder(network, taps) as recorder:
        return recorder(images())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_makes_the_logits_of_the_embedding(name):
    options = {"img_size": 32} if name.startswith("vit") else {}
    with seeded(0):
        teacher = timm.create_model(name, num_classes=10, **options).eval()
    trace = recorded(teacher, "embedding", "logits")
    assert torch.allclose(networks(teacher).teacher_head()(trace["embedding"]), trace.logits, atol=1e-5)


class TwoHeads(nn.Module):
    """A network that was itself distilled: its logits are what two classifiers make of the same embedding."""

    def __init__(self, join):
        super().__init__()
        self.body, self.pool = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)
        self.head, self.head_dist, self.join = nn.Linear(4, 10), nn.Linear(4, 10), join

    def forward(self, images):
        embedding = self.pool(self.body(images)).flatten(1)
        return self.join(self.head(embedding), self.head_dist(embedding))


def test_of_two_classifiers_of_the_same_embedding_it_is_the_mean():
    teacher = TwoHeads(lambda one, other: (one + other) / 2)
    head, trace = networks(teacher).teacher_head(), recorded(teacher, "embedding", "logits")
    assert torch.allclose(head(trace["embedding"]), trace.logits, atol=1e-6)
    assert torch.allclose(head.copied()(trace["embedding"]), trace.logits, atol=1e-6)
    with pytest.raises(ModelError, match="more than what its classifier"):
        networks(TwoHeads(torch.maximum)).teacher_head()


def test_on_a_map_it_classifies_every_position_and_their_mean_is_the_logits():
    teacher = tiny_pair()[0].eval()
    head, trace = networks(teacher).teacher_head(), recorded(teacher, "stage3", "embedding", "logits")
    maps = head(trace["stage3"])
    assert maps.shape == (3, 10, *trace["stage3"].shape[2:])
    assert torch.allclose(maps.mean((2, 3)), trace.logits, atol=1e-5)
    assert torch.allclose(maps[:, :, 1, 2], head(trace["stage3"][:, :, 1, 2]), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 4), (2, 5, 4), (2, 4, 3, 3)])
def test_a_convolution_and_a_linear_layer_with_the_same_weights_classify_alike(shape):
    linear, convolution = nn.Linear(4, 3), nn.Conv2d(4, 3, 1)
    convolution.load_state_dict({"weight": linear.weight[:, :, None, None], "bias": linear.bias})
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    one, other = classify(linear, features, False), classify(convolution, features, True)
    assert torch.allclose(one, other, atol=1e-6)


def test_it_is_differentiable_but_frozen_and_follows_the_teachers_weights():
    teacher = tiny_pair()[0]
    head = networks(teacher).teacher_head()
    embedding = torch.ones(2, teacher.fc.in_features, requires_grad=True)
    head(embedding).sum().backward()
    assert torch.allclose(embedding.grad[0], teacher.fc.weight.sum(0))
    assert teacher.fc.weight.grad is None
    assert (list(head.parameters()), head.state_dict()) == ([], {})
    with torch.no_grad():
        teacher.fc.bias.add_(1.0)
    assert torch.equal(head(embedding), teacher.fc(embedding)), "a teacher gets its weights after the connectors are built"
    shipped, twin = head.copied(), copy.deepcopy(head)
    with torch.no_grad():
        teacher.fc.bias.add_(1.0)
    assert torch.allclose(shipped(embedding), teacher.fc(embedding) - 1, atol=1e-6)
    assert torch.equal(twin(embedding), teacher.fc(embedding))


class Scaled(nn.Module):
    """Its logits are twice what its classifier says."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        return 2 * self.fc(self.conv(x).mean((2, 3)))


class Headless(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10)

    def forward(self, x):
        return self.bn(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize(("kind", "message"), [(Scaled, "are more than what its classifier 'fc'"), (Headless, "no classifier")])
def test_a_teacher_whose_logits_are_not_those_of_a_classifier_is_refused(kind, message):
    with pytest.raises(ModelError, match=message):
        networks(kind()).teacher_head()


def test_without_a_teacher_its_parts_are_refused():
    with pytest.raises(KDError, match="--teacher"):
        networks(None, tiny_pair()[1]).teacher_head()


def test_the_normalisation_before_a_tap_is_found_and_cannot_be_changed():
    teacher = tiny_pair()[0]
    view = networks(teacher).teacher_module("stage2.pre", nn.BatchNorm2d)
    norm = teacher.stages[1][1]
    assert torch.equal(view.weight, norm.weight)
    assert not view.weight.requires_grad
    assert view.eps == norm.eps
    with pytest.raises(AttributeError, match="The teacher is frozen: 'eps'"):
        view.eps = 1.0
    norm.running_mean.add_(3.0)
    assert torch.equal(copy.deepcopy(view).running_mean, norm.running_mean)
    assert view.running_mean._version == norm.running_mean._version, "a write through the view is counted as one to the teacher"


def test_a_normalisation_may_hold_the_activation_that_is_tapped():
    teacher = timm.create_model("test_efficientnet", num_classes=10).eval()
    norm = dict(teacher.named_modules())["bn2"]
    view = networks(teacher).teacher_module("bn2.act:in", nn.BatchNorm2d)
    norm.running_mean.add_(3.0)
    assert torch.equal(view.running_mean, norm.running_mean)


def test_a_module_is_that_at_the_tap_without_a_kind():
    teacher = tiny_pair()[0]
    assert networks(teacher).teacher_module("stages.1.0", None).stride == teacher.stages[1][0].stride


@pytest.mark.parametrize(
    ("tap", "kind", "message"),
    [("stage2", nn.LayerNorm, "no LayerNorm of 16 channels before"), ("stages", nn.BatchNorm2d, "stands for 3 taps")],
)
def test_a_module_that_is_not_there_is_refused(tap, kind, message):
    with pytest.raises(TapError, match=message):
        networks(tiny_pair()[0]).teacher_module(tap, kind)


@pytest.mark.parametrize("student", [tiny_pair()[1], vit_pair()[0]], ids=["cnn", "vit"])
@pytest.mark.parametrize("tap", ["stage-1", "stage2", "embedding"])
def test_a_student_is_cut_behind_a_tap_without_its_classifier(student, tap):
    student = copy.deepcopy(student).eval()
    expected = recorded(student, tap)[tap]
    classifier = 10 * expected.shape[1] + 10 if tap == "embedding" else None
    before = sum(value.numel() for value in student.parameters())
    cut = networks(None, student).student_until(tap)(student)
    with torch.no_grad():
        assert torch.equal(cut(images()), expected)
    after = sum(value.numel() for value in cut.parameters())
    assert after < before
    assert classifier is None or before - after == classifier

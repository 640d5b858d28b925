from dataclasses import replace

import numpy as np
import pytest
import torch
from kdplugin_simkd import Deployed, Projector, SimKD
from safetensors.torch import load_file, save_file
from torch import nn

from kdengine import Head, Pair, SettingsError
from kdengine.data.load import load_data
from kdengine.runs.evaluate_run import evaluate_folder
from kdengine.shipping.export import export_student
from kdengine.testing import DistillerContract, in_processes, make_step


class TestContract(DistillerContract):
    method = "simkd"


class Networks:
    """What a pair knows of a teacher with this classifier, and of a student that is its own backbone."""

    def __init__(self, classifier):
        self.classifier = classifier

    def teacher_head(self):
        return Head(lambda: self.classifier)

    def student_until(self, tap):
        return lambda network: network


def step_of(student, teacher, embedding=None):
    """A step on the last maps and the teacher's embedding, by default the mean of its map."""
    embedding = teacher.mean((2, 3)) if embedding is None else embedding
    step = make_step({"stage-1": student}, {"stage-1": teacher})
    with_embedding = make_step({"a": student, "b": student}, {"stage-1": teacher, "embedding": embedding})
    return replace(step, teacher=with_embedding.teacher, teacher_taps=("embedding",))


def simkd(step, rectified=True, **options):
    method = SimKD(**options)
    names = {"stage-1"} if rectified else set()
    classifier = nn.Linear(step.teacher["embedding"].shape[1], 7)
    pair = Pair(step.student, step.teacher, 7, 100, lambda spec: None, step.names, names, networks=Networks(classifier))
    method.build(pair)
    return method


def numbers(tensor):
    return tensor.detach().double().numpy()


def convolved(x, weight):
    """Cross-correlation that keeps the size."""
    border = weight.shape[2] // 2
    x = np.pad(x, [(0, 0), (0, 0), (border, border), (border, border)])
    high, wide = x.shape[2] - 2 * border, x.shape[3] - 2 * border
    parts = [
        np.einsum("bchw,dc->bdhw", x[:, :, i : i + high, j : j + wide], weight[:, :, i, j])
        for i, j in np.ndindex(*weight.shape[2:])
    ]
    return sum(parts)


def projected(x, projector):
    """What a projector makes of a map, with the statistics of the batch."""
    for layer in projector:
        if isinstance(layer, nn.Conv2d):
            x = convolved(x, numbers(layer.weight))
        elif isinstance(layer, nn.BatchNorm2d):
            mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
            gain, shift = numbers(layer.weight), numbers(layer.bias)
            x = (x - mean) / np.sqrt(variance + 1e-5) * gain[:, None, None] + shift[:, None, None]
        else:
            x = np.maximum(x, 0)
    return x


def halved(x):
    """Mean over boxes of 2 x 2."""
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((2, 3, 2, 2), (2, 6, 2, 2)), ((2, 3, 4, 4), (2, 4, 2, 2)), ((2, 3, 2, 4), (2, 4, 4, 8))],
)
def test_the_distance_of_the_maps_and_its_gradient_are_those_of_the_formula(ours, theirs, leaf, slope, agree, gradient):
    student, teacher = leaf(*ours, seed=1), leaf(*theirs, seed=2, rectified=True).detach()
    step = step_of(student, teacher)
    method = simkd(step, beta=3.0)

    def formula(s):
        t = numbers(teacher)
        s, t = (halved(s) if s.shape[2] > t.shape[2] else s), (halved(t) if t.shape[2] > s.shape[2] else t)
        return 3 * ((projected(s, method.projector) - t) ** 2).mean()

    loss = method(step)["feature"]
    agree(loss, formula(numbers(student)))
    agree(gradient(loss, student), slope(formula, numbers(student)), relative=1e-4)


def test_where_the_embedding_is_not_the_mean_of_the_map_it_is_matched_itself(leaf, slope, agree, gradient):
    student, teacher, embedding = leaf(3, 3, 2, 2, seed=1), leaf(3, 4, 2, 2, seed=2).detach(), leaf(3, 4, seed=3).detach()
    step = step_of(student, teacher, embedding)
    method = simkd(step, rectified=False)

    def formula(s):
        return ((projected(s, method.projector).mean((2, 3)) - numbers(embedding)) ** 2).mean()

    loss = method(step)["feature"]
    agree(loss, formula(numbers(student)))
    agree(gradient(loss, student), slope(formula, numbers(student)), relative=1e-4)


def test_what_is_matched_is_decided_at_the_first_step_for_good_unless_it_is_said(leaf):
    maps = leaf(3, 4, 2, 2, seed=2).detach()
    alike, apart = step_of(leaf(3, 3, 2, 2), maps), step_of(leaf(3, 3, 2, 2), maps, leaf(3, 4, seed=3).detach())
    method = simkd(alike)
    method(alike)
    again = simkd(alike)
    again.load_state_dict(method.state_dict())
    assert torch.equal(method(apart)["feature"], again(apart)["feature"])
    assert bool(again.by_map)
    said = simkd(alike, match="embedding")
    said(alike)
    assert not bool(said.by_map)


def test_what_is_matched_is_decided_by_the_images_of_all_processes(leaf):
    maps = leaf(4, 4, 2, 2, seed=2).detach()
    embedding = maps.mean((2, 3))
    embedding[1] += 1  # an image of the second process

    def one(rank, processes):
        mine = slice(rank, None, 2)
        step = replace(step_of(leaf(2, 3, 2, 2), maps[mine], embedding[mine]), processes=processes)
        method = simkd(step)
        method(step)
        return bool(method.by_map)

    assert in_processes(2, one) == [False, False]


def test_a_map_of_another_width_than_the_embedding_gives_way_to_it_or_is_refused(leaf):
    step = step_of(leaf(3, 3, 2, 2), leaf(3, 4, 2, 2), leaf(3, 6))
    assert simkd(step).projector[6].out_channels == 6
    with pytest.raises(SettingsError, match="width of the teacher's embedding, 6; got 4"):
        simkd(step, match="map")


def test_the_projector_is_a_bottleneck_of_the_published_size_and_ends_as_the_teachers_map_does():
    layers = Projector(256, 256, 2, rectified=True)
    assert sum(value.numel() for value in layers.parameters()) == 256 * 128 * 2 + 9 * 128 * 128 + 2 * (128 + 128 + 256)
    assert isinstance(layers[-1], nn.ReLU)
    assert isinstance(Projector(8, 4, 2, rectified=False)[-1], nn.BatchNorm2d)
    assert Projector(8, 4, 8, rectified=True)[0].out_channels == 1


def test_the_task_does_not_count_and_several_taps_are_refused(leaf):
    assert SimKD().task_weight == 0
    both = make_step({"a": leaf(2, 3, 2, 2), "b": leaf(2, 3, 2, 2)}, {"a": leaf(2, 3, 2, 2), "b": leaf(2, 3, 2, 2)})
    with pytest.raises(SettingsError, match=r"simkd.taps names 2.*stage-1"):
        SimKD().build(Pair(both.student, both.teacher, 7, 100, lambda spec: None, both.names))


def test_a_batch_of_one_with_one_place_uses_the_running_statistics(leaf):
    step = step_of(leaf(1, 3, 1, 1), leaf(1, 4, 1, 1))
    assert torch.isfinite(simkd(step)(step)["feature"])


def test_the_deployed_network_has_copies_of_its_own(leaf):
    step = step_of(leaf(2, 3, 4, 4), leaf(2, 4, 2, 2))
    method, student = simkd(step), nn.Conv2d(3, 3, 1)
    network = method.deploy(student.eval()).eval()
    assert isinstance(network, Deployed)
    assert method.projector.training
    images = leaf(2, 3, 4, 4).detach()
    before = network(images)
    assert before.shape == (2, 7)
    with torch.no_grad():
        for value in (*method.projector.parameters(), *method.head._owner().parameters()):
            value.add_(1.0)
    assert torch.equal(network(images), before)


def test_accuracy_size_files_and_exports_are_those_of_one_network(distil, networks, tmp_path):
    (teacher,) = networks("resnet20")
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    given = {"teacher_weights": tmp_path / "teacher.safetensors"}
    result = distil(["simkd"], "digits@train=64@test=32", teacher="resnet20", student="resnet8", train=given)
    facts, network = result.facts["student"], result.student
    assert isinstance(network, Deployed)
    assert facts["parameters"] == sum(value.numel() for value in network.parameters()) == 78_042 + 13_568
    assert torch.equal(network.head.classifier.weight, teacher.fc.weight)
    assert set(load_file(result.folder / "student.safetensors")) == set(network.state_dict())
    data = load_data("digits@train=64@test=32")
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    with torch.no_grad():
        guessed = network((data.test.images.float() / 255 - mean) / std).argmax(1)
    accuracy = 100 * float((guessed == data.test.labels).float().mean())
    assert result.top1 == pytest.approx(accuracy)
    assert evaluate_folder(result.folder)["top1"] == pytest.approx(accuracy)
    exported = export_student(result.folder, "torch-export")
    assert exported["difference"] < 1e-4
    assert "task" not in result.history[-1]["terms"]

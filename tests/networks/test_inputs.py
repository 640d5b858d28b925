import copy

import kdzoo  # noqa: F401  registers the small networks with timm
import numpy as np
import pytest
import timm
import torch
from torch import nn

from kdengine import Anatomy, Engine, Recorder, hookimpl
from kdengine.networks.inputs import ImageSpec, Preprocess, Preprocessed
from kdengine.storage.runfolder import RunFolder

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
DIGITS = {"mean": (0.3, 0.3, 0.3), "std": (0.38, 0.38, 0.38)}
SMALL, LARGE = (3, 32, 32), (3, 64, 64)
DATA = "digits@train=16@test=16"
FAST = {"data": DATA, "epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}
NOISE = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def cubic(x):
    """Keys' cubic convolution with a = -1/2, the kernel of resizing with antialiasing."""
    x = np.abs(x)
    inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0))


def resizing(old, new):
    """The matrix [new, old] that resizes one side, in float64; weights beyond the edge are left out."""
    scale = old / new
    width = max(scale, 1)
    centres = (np.arange(new) + 0.5) * scale
    weights = cubic((np.arange(old)[None] + 0.5 - centres[:, None]) / width)
    return weights / weights.sum(1, keepdims=True)


def expected(images, given, wanted, size=None):
    """What a network must receive, computed by itself in float64: back to the scale 0 to 1, normalised anew, resized."""
    (m, s), (middle, width) = ([np.array(form[name])[:, None, None] for name in ("mean", "std")] for form in (given, wanted))
    pixels = images.detach().double().numpy() * s + m
    found = (pixels - middle) / width
    if size is not None:
        rows, columns = (resizing(old, new) for old, new in zip(images.shape[2:], size, strict=True))
        found = rows @ found @ columns.T
    return torch.from_numpy(found)


def close(found, wanted):
    return found.shape == wanted.shape and torch.allclose(found.double(), wanted, rtol=0, atol=2e-5)


def fit_between(given, wanted, sizes=(SMALL, SMALL)):
    return Preprocess(ImageSpec(sizes[0], **given), ImageSpec(sizes[1], **wanted))


# What is done to images


@pytest.mark.parametrize("fit", [Preprocess.none(SMALL), fit_between(DIGITS, DIGITS), fit_between({}, IMAGENET)])
def test_where_nothing_is_to_be_done_or_the_normalisation_is_unknown_the_very_same_comes_back(fit):
    network = nn.Identity()
    assert fit(NOISE) is NOISE
    assert fit.before(network) is network


@pytest.mark.parametrize("size", [SMALL, LARGE, (3, 24, 40), (3, 7, 5)])
def test_images_are_normalised_anew_and_resized(size):
    fit = fit_between(DIGITS, IMAGENET, (SMALL, size))
    assert close(fit(NOISE), expected(NOISE, DIGITS, IMAGENET, size[1:]))


def test_with_an_unknown_normalisation_only_the_size_changes():
    fit = fit_between({}, {}, (SMALL, LARGE))
    assert close(fit(NOISE), expected(NOISE, DIGITS, DIGITS, (64, 64)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_layout_is_kept(layout):
    fit = fit_between(DIGITS, IMAGENET, (SMALL, LARGE))
    assert fit(NOISE.contiguous(memory_format=layout)).is_contiguous(memory_format=layout)


def test_it_stays_in_float32_whatever_precision_the_forward_has():
    fit = fit_between(DIGITS, IMAGENET, (SMALL, LARGE))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fit(NOISE), fit(NOISE.clone()))
        assert close(fit(NOISE), expected(NOISE, DIGITS, IMAGENET, (64, 64)))


def test_it_can_be_differentiated_twice():
    fit = fit_between(DIGITS, IMAGENET, ((3, 6, 6), (3, 4, 9)))
    images = torch.rand(2, 3, 6, 6, requires_grad=True)
    (first,) = torch.autograd.grad((fit(images) ** 3).sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), images)
    assert second.shape == images.shape
    assert second.abs().max() > 0


def test_a_form_is_described_as_far_as_it_is_known():
    assert ImageSpec(SMALL, **IMAGENET).describe() == {
        "size": [3, 32, 32],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert ImageSpec(SMALL).describe() == {"size": [3, 32, 32]}
    assert str(ImageSpec(SMALL, **DIGITS)) == "3 x 32 x 32, mean 0.3 0.3 0.3, std 0.38 0.38 0.38"


# A network with its fit


@pytest.mark.parametrize("training", [True, False])
def test_a_fitted_network_runs_the_network_itself_in_the_mode_that_it_is_in(training):
    network = timm.create_model("resnet8", num_classes=10).train(training)
    fitted = fit_between(DIGITS, IMAGENET, (SMALL, LARGE)).before(network)
    assert isinstance(fitted, Preprocessed)
    assert fitted.module is network
    assert fitted.training is network.training is training
    network.eval()
    assert torch.equal(fitted(NOISE), network(fitted.preprocess(NOISE)))


def test_taps_are_found_in_the_network_itself_and_the_trace_begins_with_the_images_of_the_data():
    network = timm.create_model("resnet8", num_classes=10).eval()
    fitted = fit_between(DIGITS, IMAGENET, (SMALL, LARGE)).before(network)
    points = Anatomy.of(network, LARGE).resolve("layer2.0.conv1")
    images = NOISE.clone().requires_grad_()
    with Recorder(fitted, points) as recorder:
        trace = recorder(images)
    assert trace.input is images
    assert trace["layer2.0.conv1"].shape == (4, 32, 32, 32)


# What the networks of a run receive


class Watched:
    """Two networks that note what they receive, in training and while they are measured."""

    def __init__(self):
        self.networks = {role: timm.create_model(name, num_classes=10) for role, name in PAIR.items()}
        self.seen = {role: {True: [], False: []} for role in PAIR}
        for role, network in self.networks.items():
            network.register_forward_pre_hook(lambda module, args, role=role: self._note(role, module, args[0]))

    def _note(self, role, module, images):
        if images.device.type != "meta":  # a probe
            self.seen[role][module.training].append(images.detach().clone())


PAIR = {"teacher": "resnet14", "student": "resnet8"}
TEACHERS = {"size": 64, **IMAGENET}


def check(plugins, out, **settings):
    """Train a pair on digits; what each received must be what an independent computation makes of the data's pixels."""
    watched = Watched()
    settings = {**FAST, "fold_teacher": False, **settings}  # folding looks at two images first
    engine = Engine(**watched.networks, plugins=plugins, out=out, teacher_input=TEACHERS, **settings)
    data = engine.session().data.dataset
    own = {"mean": data.mean, "std": data.std}
    engine.fit()
    shown = list(engine.session().data.train.epoch(0))
    teacher, student = watched.seen["teacher"], watched.seen["student"]
    assert len(student[True]) == len(shown) == 2
    for batch, received in zip(shown, student[True], strict=True):
        assert torch.equal(batch.x, received), "a network of the data's own input gets the very numbers of the data"
    pixels = data.test.images.double() / 255
    as_they_are = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    assert close(student[False][0], expected(pixels, as_they_are, own))
    assert close(teacher[False][0], expected(pixels, as_they_are, IMAGENET, (64, 64)))
    for batch, received in zip(shown, teacher[False][1:], strict=True):
        assert close(received, expected(batch.x, own, IMAGENET, (64, 64)))
    assert teacher[True] == []


@pytest.mark.parametrize(
    "plugins", [["st"], ["fitnet", "rkd"], pytest.param(["jacobian"], marks=pytest.mark.slow)], ids="+".join
)
def test_teacher_and_student_each_get_what_they_were_made_for_from_one_batch(plugins, tmp_path):
    check(plugins, tmp_path / "run", options={"fitnet": {"hint_epochs": 0}} if "fitnet" in plugins else {})


def test_it_is_so_in_bf16_too(tmp_path):
    check(["st"], tmp_path / "run", precision="bf16")


def wrong_normalisation(fit, images):
    return FAITHFUL(Preprocess(fit.given, ImageSpec(fit.wanted.size, fit.wanted.mean, fit.given.std)), images)


def without_antialias(fit, images):
    images = FAITHFUL(
        Preprocess(ImageSpec(SMALL, fit.given.mean, fit.given.std), fit.wanted.__class__(SMALL, **IMAGENET)), images
    )
    return nn.functional.interpolate(images, fit.wanted.size[1:], mode="bicubic") if fit.resizes else images


def the_teachers_for_everyone(fit, images):
    return FAITHFUL(Preprocess(fit.given, ImageSpec(SMALL, **IMAGENET)), images)


FAITHFUL = Preprocess.__call__


@pytest.mark.parametrize("fault", [wrong_normalisation, without_antialias, the_teachers_for_everyone])
def test_a_fault_in_what_is_done_would_be_noticed(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(Preprocess, "__call__", fault)
    with pytest.raises(AssertionError):
        check(["st"], tmp_path / "run")


def test_a_fit_that_never_reaches_the_teacher_would_be_noticed(tmp_path, monkeypatch):
    from kdengine.networks.network import Network

    monkeypatch.setattr(Network, "preprocessed", property(lambda self: self.module))
    with pytest.raises(AssertionError):
        check(["st"], tmp_path / "run")


# Gradients with respect to the images


@pytest.mark.slow
def test_input_gradients_of_both_networks_are_those_of_the_common_batch(tmp_path):
    from kdengine import Distiller

    class Gradients(Distiller):
        """Notes both gradients, and what they are taken of."""

        name = "gradients"
        needs = ("input_gradients",)

        def forward(self, step):
            traces = (step.student, step.teacher)
            for trace in traces:
                assert torch.equal(trace.input, step.x)
                assert trace.input.is_leaf
            found = [torch.autograd.grad(t.logits[:, 1].sum(), t.input, create_graph=True)[0] for t in traces]
            seen.append((step.x, [gradient.detach() for gradient in found]))
            return {"distance": (found[0] - found[1].detach()).square().mean()}

    seen = []
    teacher, student = (timm.create_model(name, num_classes=10) for name in PAIR.values())
    student_input = {"size": 48, "mean": (0.1, 0.2, 0.3)}
    inputs = {"teacher_input": TEACHERS, "student_input": student_input}
    Engine(teacher, copy.deepcopy(student), [Gradients()], out=tmp_path / "run", **inputs, **FAST).fit()
    x, (of_student, of_teacher) = seen[0]
    assert of_student.shape == of_teacher.shape == x.shape == (8, 3, 32, 32)
    # the chain rule by hand: the gradient at the network's own input, through the transposed resizing and the scale
    session = Engine(teacher, "resnet8", ["st"], teacher_input=TEACHERS, **FAST).session()
    data = session.data.dataset
    own = {"mean": data.mean, "std": data.std}
    received = expected(x, own, IMAGENET, (64, 64)).float().requires_grad_()
    (gradient,) = torch.autograd.grad(teacher(received)[:, 1].sum(), received)
    matrix = torch.from_numpy(resizing(32, 64))
    scale = (torch.tensor(data.std) / torch.tensor(IMAGENET["std"])).view(3, 1, 1).double()
    by_hand = scale * (matrix.T @ gradient.double() @ matrix)
    # as a whole, because a rounding error may carry single values of the forward over the kink of a ReLU
    assert (of_teacher - by_hand).norm() < 5e-3 * by_hand.norm()


# Folders, and going on


class Stop:
    @hookimpl(trylast=True)
    def kdengine_after_epoch(self, record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt


def numbers(result):
    return [{key: row[key] for key in ("terms", "test_top1", "test_loss")} for row in result.history]


def weights_equal(one, other):
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """The settings of a run whose two networks receive different images; the teacher is trained in a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDENGINE_CACHE", str(tmp_path / "cache"))
    inputs = {"teacher_input": {"size": 40, **IMAGENET}, "student_input": {"size": [24, 28]}}
    return {"teacher": "resnet14", "student": "resnet8", "plugins": ["st"], **inputs, **FAST, "epochs": 2}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_inputs_and_its_settings_repeat_it(pair, tmp_path):
    whole = Engine(**pair, out=tmp_path / "whole").fit()
    with pytest.raises(KeyboardInterrupt):
        Engine(**pair, out=tmp_path / "part", observers=[Stop()]).fit()
    resumed = Engine.resume(tmp_path / "part").fit()
    again = Engine.of(RunFolder(tmp_path / "whole").settings(), tmp_path / "again").fit()
    for other in (resumed, again):
        assert numbers(other) == numbers(whole)
        assert weights_equal(other.student, whole.student)
    assert whole.facts["teacher"]["input"]["size"] == [3, 40, 40]
    assert whole.facts["student"]["input"]["size"] == [3, 24, 28]


@pytest.mark.slow
def test_a_teacher_that_is_trained_here_learns_from_the_images_it_will_teach_on(pair, tmp_path):
    result = Engine(**pair, out=tmp_path / "run").fit()
    own = RunFolder(result.facts["teacher"]["folder"])
    assert own.result()["student"]["input"] == result.facts["teacher"]["input"]
    assert own.result()["student"]["flops"] == result.facts["teacher"]["flops"]
    unsaid = {name: value for name, value in pair.items() if name != "teacher_input"}
    measured = Engine(**unsaid, teacher_weights=own.path, out=tmp_path / "measured").fit()
    assert measured.teacher_top1 == result.teacher_top1, "in another run it has the accuracy of its own training"
    assert numbers(measured) == numbers(result)
    other = Engine(**{**pair, "teacher_input": {"size": 48}}, out=tmp_path / "other").fit()
    assert other.facts["teacher"]["cached"] is False
    assert Engine(**pair, out=tmp_path / "third").fit().facts["teacher"]["cached"] is True


def test_operations_are_counted_at_the_size_that_a_network_receives(pair):
    facts = Engine(**pair).plan().describe()
    small = Engine(**{**pair, "teacher_input": {"size": 20}}).plan().describe()
    costs = [plan["phases"][0]["forwards"]["teacher"]["whole_flops"] for plan in (facts, small)]
    assert costs[0] == pytest.approx(4 * costs[1], rel=0.01)
    assert facts["teacher"]["input"] == {"size": [3, 40, 40], "mean": list(IMAGENET["mean"]), "std": list(IMAGENET["std"])}
    assert facts["student"]["input"] == {"size": [3, 24, 28]}


@pytest.mark.slow
def test_lanes_of_a_comparison_equal_the_same_runs_alone(pair, tmp_path):
    from kdengine import Comparison

    settings = {key: value for key, value in pair.items() if key not in ("teacher", "student", "plugins")}
    teacher = timm.create_model("resnet14", num_classes=10)
    methods = {"st": ["st"], "at+fitnet": ["at", "fitnet"]}
    folder = tmp_path / "compared"
    Comparison(teacher, "resnet8", methods, out=folder, **settings).fit()
    for label, plugins in {**methods, "plain": []}.items():
        alone = {key: value for key, value in settings.items() if plugins or key != "teacher_input"}
        result = Engine(teacher if plugins else None, "resnet8", plugins, out=tmp_path / label, **alone).fit()
        lane = RunFolder(folder / "trial-1" / label)
        assert [row["terms"] for row in lane.metrics()] == [row["terms"] for row in result.history]
        assert (lane.path / "student.safetensors").read_bytes() == (tmp_path / label / "student.safetensors").read_bytes()
        assert lane.result()["student"]["input"]["size"] == [3, 24, 28]


@pytest.mark.slow
def test_networks_on_the_way_and_peers_of_the_students_kind_receive_what_the_student_does(pair, tmp_path):
    sizes = set()

    class Sizes:
        @hookimpl
        def kdengine_before_fit(self, run):
            if run.settings.teacher is not None:
                for link in run.lane.chain:
                    for module in [link.module.student, *link.module.distillers.modules()]:
                        if type(module).__name__ == "CifarResNet":
                            module.register_forward_pre_hook(lambda _, args: sizes.add(tuple(args[0].shape[1:])))

    chained = {**pair, "plugins": ["takd"], "options": {"takd": {"assistants": ["student", "resnet14"]}}, "epochs": 1}
    Engine(**chained, out=tmp_path / "chain", observers=[Sizes()]).fit()
    assert sizes == {(3, 24, 28), (3, 32, 32)}, "the second assistant takes the images of the data"
    sizes.clear()
    cohort = {**pair, "plugins": ["dml"], "options": {"dml": {"peers": ["student"]}}, "epochs": 1}
    Engine(**cohort, out=tmp_path / "cohort", observers=[Sizes()]).fit()
    assert sizes == {(3, 24, 28)}

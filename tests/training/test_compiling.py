"""Compiled runs: they learn what others do, whatever is read inside the networks, and go back to plain ones where they must."""

import copy
import json
import shutil

import kdzoo  # noqa: F401  registers the small networks with timm
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from kdengine import Comparison, Engine, SettingsError
from kdengine.config.settings import TrainSettings
from kdengine.networks.inputs import ImageSpec, Preprocess
from kdengine.taps import Anatomy, Recorder
from kdengine.training import compiling
from kdengine.training.compiling import Forwards, check_graphs

SIZE = (3, 32, 32)
FAST = {
    "data": "digits@train=18@test=16",
    "precision": "fp32",
    "device": "cpu",
    "batch_size": 8,
    "lr": 0.02,
    "epochs": 1,
    "channels_last": False,
}


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    torch.compiler.reset()
    torch.manual_seed(0)


@pytest.fixture
def compiled(monkeypatch):
    """How many images each compiled forward got."""
    batches, compile = [], torch.compile

    def counting(module, **options):
        forward = compile(module, **options)

        def counted(images):
            batches.append(len(images))
            return forward(images)

        return counted

    monkeypatch.setattr(torch, "compile", counting)
    return batches


def small(seed=0):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(900, 10)
    return nn.Sequential(*layers)


def points_of(net, *taps):
    return Anatomy.of(net, SIZE).resolve_all(taps)


def student():
    torch.manual_seed(1)
    return timm.create_model("resnet8", num_classes=10)


def teacher():
    torch.manual_seed(2)
    return timm.create_model("resnet8", num_classes=10)


def weights(folder):
    return load_file(folder / "student.safetensors")


def close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["at", pytest.param("fitnet", marks=pytest.mark.slow)])
def test_compiled_networks_learn_what_others_do_from_layers_inside_them(method, tmp_path, compiled):
    """fitnet ends its hint phase at the deepest tap, and then trains without any."""
    settings = {**FAST, "fold_teacher": False}  # a compiled teacher is not folded
    one, other = (
        Engine(teacher(), student(), [method], out=tmp_path / str(on), compile=on, **settings).fit() for on in (False, True)
    )
    assert set(compiled) == {8}
    close(weights(one.folder), weights(other.folder))
    ours, theirs = one.history[-1]["terms"], other.history[-1]["terms"]
    assert theirs == pytest.approx(ours, rel=1e-3)


@pytest.mark.slow
def test_lanes_are_compiled_together_and_a_resumed_run_ends_as_if_nothing_had_happened(tmp_path, pull, compiled):
    settings = {**FAST, "compile": True, "save_minutes": 1e-9, "options": {"at": {"taps": "2"}}}
    one, two, three, four = (small(seed) for seed in (1, 2, 2, 2))
    Comparison(one, two, {"at": ["at"], "st": ["st"]}, out=tmp_path / "all", **settings).fit()
    alone = Engine(one, three, ["at"], out=tmp_path / "one", **settings).fit()
    folders = {path.parent.name: path.parent for path in (tmp_path / "all").rglob("student.safetensors")}
    assert all(torch.equal(value, weights(alone.folder)[name]) for name, value in weights(folders["at"]).items())
    with pytest.raises(RuntimeError, match="pulled the plug"):
        Engine(one, four, ["at"], out=tmp_path / "part", observers=[pull(2)], **settings).fit()
    torch.compiler.reset()
    again = Engine.resume(tmp_path / "part", teacher=one, student=small(3)).fit()
    assert compiled
    assert all(torch.equal(value, weights(again.folder)[name]) for name, value in weights(alone.folder).items())
    assert json.loads((again.folder / "metrics.jsonl").read_text().splitlines()[0])["terms"] == alone.history[0]["terms"]


def test_only_whole_batches_are_compiled_or_sizes_that_come_twice_in_a_row(compiled):
    net = small()
    points, forwards = points_of(net, "2"), Forwards(net, None, compile=True, batch_size=4)
    for size in (4, 4, 3, 4, 2, 2, 2, 1):
        with Recorder(copy.deepcopy(net), points) as recorder:
            images = torch.randn(max(size, 1), *SIZE)
            wanted = recorder(images)["2"]
        torch.testing.assert_close(forwards.record(images, points)["2"], wanted)
    assert compiled == [4, 4, 4, 2, 2]


def test_a_network_that_the_compiler_refuses_runs_as_it_is_and_nothing_has_happened(monkeypatch, caplog):
    net = small()
    points, images = points_of(net, "1"), torch.randn(4, *SIZE)

    def failing(module, **options):
        def forward(images):
            module(images)  # uses up random numbers and moves statistics before it fails
            torch.rand(1)
            raise RuntimeError("no kernel for this\nand a long story")

        return forward

    monkeypatch.setattr(torch, "compile", failing)
    twin = copy.deepcopy(net)
    forwards = Forwards(net, None, compile=True, batch_size=4)
    drawn = torch.get_rng_state()
    ours = forwards.record(images, points)
    assert torch.equal(torch.get_rng_state(), drawn)
    with Recorder(twin, points) as recorder:
        assert torch.equal(recorder(images)["1"], ours["1"])
    assert all(torch.equal(one, other) for one, other in zip(net.buffers(), twin.buffers(), strict=True))
    forwards.record(images, points)
    assert [record.message for record in caplog.records] == [
        "Sequential is not compiled, and runs as it is: no kernel for this"
    ]


def test_a_teacher_that_the_compiler_refuses_is_not_written_to(monkeypatch):
    def failing(module, **options):
        def forward(images):
            raise RuntimeError("no kernel")

        return forward

    monkeypatch.setattr(torch, "compile", failing)
    net = small().eval()
    before = [buffer._version for buffer in net.buffers()]
    Forwards(net, None, compile=True, batch_size=4).record(torch.randn(4, *SIZE), points_of(net, "1"))
    assert [buffer._version for buffer in net.buffers()] == before


def test_a_network_that_cannot_be_copied_runs_as_it_is(caplog):
    net = small()
    net[0].register_forward_hook(lambda module, args, output: 2 * output)
    points, images = points_of(net, "0"), torch.randn(4, *SIZE)
    trace = Forwards(net, None, compile=True, batch_size=4).record(images, points)
    with Recorder(net, points) as recorder:
        assert torch.equal(recorder(images)["0"], trace["0"])
    assert "'0' has forward hooks of its own" in caplog.text


def test_preprocessing_is_compiled_with_the_network_and_taps_resolve_as_in_the_bare_one(compiled):
    net = small().eval()
    preprocess = Preprocess(ImageSpec(SIZE, (0.5,) * 3, (0.25,) * 3), ImageSpec(SIZE, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)))
    points, images = points_of(net, "0", "logits"), torch.randn(4, *SIZE)
    trace = Forwards(net, preprocess, compile=True, batch_size=4).record(images, points)
    with Recorder(preprocess.before(net), points) as recorder:
        plain = recorder(images)
    assert compiled == [4]
    assert all(torch.allclose(trace[name], plain[name], atol=1e-5) for name in ("0", "logits"))
    assert trace.input is images


def test_sets_of_taps_are_compiled_up_to_a_limit(monkeypatch, compiled):
    monkeypatch.setattr(compiling, "MOST", 2)
    net = small().eval()
    forwards, images = Forwards(net, None, compile=True, batch_size=4), torch.randn(4, *SIZE)
    for tap in ("0", "1", "2", "0"):
        points = points_of(net, tap)
        ours = forwards.record(images, points)[tap]
        with Recorder(net, points) as recorder:
            torch.testing.assert_close(ours, recorder(images)[tap])
    assert len(compiled) == 3


@pytest.mark.parametrize(("given", "mode"), [(True, "default"), ("reduce-overhead", "reduce-overhead")])
def test_the_mode_reaches_torch(monkeypatch, given, mode):
    asked = {}
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    monkeypatch.setattr(torch, "compile", lambda module, **options: asked.update(options) or module)
    net = small()
    Forwards(net, None, compile=given, batch_size=4).record(torch.randn(4, *SIZE), points_of(net, "1"))
    assert asked == {"backend": "inductor", "mode": mode, "dynamic": False}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_trains_a_student_in_bf16(tmp_path, monkeypatch, compiled):
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    settings = {**FAST, "precision": "bf16"}
    one, other = (
        Engine(teacher(), student(), ["at", "st"], out=tmp_path / str(on), compile=on, **settings).fit() for on in (False, True)
    )
    assert compiled
    assert other.history[0]["terms"]["st.soft"] == pytest.approx(one.history[0]["terms"]["st.soft"], rel=0.05)


def test_gradients_are_not_added_up_in_the_memory_of_cuda_graphs():
    device = torch.device("cuda")
    with pytest.raises(SettingsError, match=r"train\.compile = 'reduce-overhead' uses CUDA graphs.*train\.accumulate = 2"):
        check_graphs(TrainSettings(compile="reduce-overhead", accumulate=2), device)
    for allowed in ({"compile": True, "accumulate": 2}, {"compile": "reduce-overhead"}):
        check_graphs(TrainSettings(**allowed), device)
    check_graphs(TrainSettings(compile="reduce-overhead", accumulate=2), torch.device("cpu"))

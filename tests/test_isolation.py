"""Engines disturb neither the process they run in nor each other."""

import copy
import gc
import logging
import os
import random
import signal
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data._utils import signal_handling

from kdengine import Comparison, Data, Distiller, Engine, Registry, Split, TrainingError, hookimpl
from kdengine.data import decoding
from kdengine.networks.models import ModelSource
from kdengine.taps.double_backward import twice_differentiable

SMALL = {"data": "digits@train=32@test=16", "epochs": 2, "batch_size": 8, "device": "cpu", "precision": "fp32", "lr": 0.05}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Comes after a first run: what libraries do to the process when they are imported is not what is tested here."""
    Engine(None, "resnet8", out=tmp_path_factory.mktemp("first") / "run", **SMALL).fit()
    return ModelSource("resnet14", {"num_classes": 10}, (3, 32, 32), Registry()).create(5)


def attention():
    flags = torch.backends.cuda
    return flags.flash_sdp_enabled(), flags.mem_efficient_sdp_enabled(), flags.math_sdp_enabled()


def process():
    """What belongs to the whole process, and what a thread has of its own, in comparable form."""
    return {
        "random state of python": random.getstate(),
        "random state of numpy": np.random.get_state()[1].tolist(),
        "random state of torch": torch.get_rng_state().tolist(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32),
        "matmul precision": torch.get_float32_matmul_precision(),
        "attention": attention(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "filters of warnings": list(warnings.filters),
        "how warnings are shown": warnings.showwarning,
        "logging": (logging.getLogger().level, list(logging.getLogger().handlers), logging.getLogger("kdengine").handlers),
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "threads that run": threading.active_count(),
    }


def changed(before):
    after = process()
    return [name for name in before if before[name] != after[name]]


def images(count, labels):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [(Image.fromarray(image), int(label)) for image, label in zip(pixels, labels, strict=True)]


def streamed(count=48):
    """Data that is read by worker processes."""
    labels = torch.arange(count) % 3
    part = Split(labels, items=images(count, labels))
    return Data("streamed", ("a", "b", "c"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3, "crop-flip", part, part)


class Breaking:
    """An observer that ends the run in the middle."""

    def __init__(self, error):
        self.error = error

    @hookimpl
    def kdengine_after_step(self, run, done, total):
        raise self.error


class Diverging(Distiller):
    name = "diverging"

    def forward(self, step):
        torch.rand(3)
        return {"term": step.student.logits.sum() * float("nan")}


def plain():
    Engine(None, "resnet8@drop_rate=0.3", **SMALL).fit()


def taught(teacher):
    Engine(teacher, "resnet8@drop_rate=0.3", ["st", "fitnet"], **SMALL).fit()


def compared(teacher):
    Comparison(teacher, "resnet8", {"rkd": ["rkd"]}, **SMALL).fit()


def differentiated_twice(teacher):
    Engine(teacher, "resnet8", ["jacobian"], **SMALL).fit()


def read_by_workers(monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)
    Engine(None, "resnet8", **{**SMALL, "data": streamed(), "epochs": 1, "workers": 2}).fit()


def own_loaders():
    images, labels = torch.zeros(32, 3, 32, 32), torch.arange(32) % 3
    given = {key: value for key, value in SMALL.items() if key not in ("data", "batch_size")}
    kept = torch.Generator()  # without one, a loader draws from the global state
    loader = DataLoader(TensorDataset(images, labels), 16, num_workers=1, generator=kept)
    Engine(None, "resnet8", **given).fit(loader, loader)


def interrupted():
    with pytest.raises(KeyboardInterrupt):
        Engine(None, "resnet8@drop_rate=0.3", observers=[Breaking(KeyboardInterrupt())], **SMALL).fit()


def failing():
    with pytest.raises(ZeroDivisionError):
        Engine(None, "resnet8@drop_rate=0.3", observers=[Breaking(ZeroDivisionError())], **SMALL).fit()


def diverging(teacher):
    with pytest.raises(TrainingError, match="no longer finite"):
        Engine(teacher, "resnet8", [Diverging()], **SMALL).fit()


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "run",
    [plain, taught, compared, differentiated_twice, read_by_workers, own_loaders, interrupted, failing, diverging],
    ids=lambda run: run.__name__.replace("_", " "),
)
def test_a_run_leaves_the_process_as_it_was_however_it_ends(run, teacher, monkeypatch):
    given = {"teacher": teacher, "monkeypatch": monkeypatch}
    run = partial(run, **{name: given[name] for name in run.__code__.co_varnames[: run.__code__.co_argcount]})
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # torch does it once in a process
    before = process()
    run()
    assert changed(before) == []


@pytest.mark.slow
def test_the_random_states_of_a_fresh_process_are_left_alone_though_libraries_are_imported_on_the_way(python):
    code = """
    import random, numpy, torch
    from kdengine.data.load import load_data
    def states():
        return random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    before = states()
    load_data("digits")
    print(states() == before)
    """
    assert python(code) == "True"


# threads --------------------------------------------------------------------------------------------------------------


def weights(result):
    return torch.cat([tensor.flatten().double() for tensor in result.student.state_dict().values()])


def numbers(result):
    unclocked = [{key: row[key] for key in row if key not in ("seconds", "images_per_second")} for row in result.history]
    return unclocked, weights(result).tolist()


def dropping(seed, teacher, folder):
    """A run whose numbers depend on dropout at every step."""
    student, methods = "resnet8@drop_rate=0.5", [["st"], ["at", "st"], []][seed]
    own = copy.deepcopy(teacher) if methods else None
    return numbers(Engine(own, student, methods, seed=seed, out=f"{folder}/{seed}", **SMALL).fit())


def in_threads(*works):
    """Begins them at once; gives what each returned."""
    start = threading.Barrier(len(works))

    def work(number):
        start.wait()
        return works[number]()

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(work, range(len(works))))


@pytest.mark.slow
def test_engines_in_threads_have_the_numbers_of_the_same_engines_alone(teacher):
    alone = [dropping(seed, teacher, "alone") for seed in range(3)]
    before = process()
    together = in_threads(*(partial(dropping, seed, teacher, "together") for seed in range(3)))
    assert together == alone
    assert changed(before) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking beside threads, from Python 3.12 on
def test_an_engine_whose_images_are_read_by_workers_and_one_in_a_thread_do_not_disturb_each_other(teacher, monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)

    def reading(folder):
        given = {**SMALL, "data": streamed(), "epochs": 3, "workers": 2}
        return numbers(Engine(None, "resnet8@drop_rate=0.5", out=folder, **given).fit())

    alone = reading("alone"), dropping(1, teacher, "alone")
    assert list(in_threads(partial(reading, "together"), partial(dropping, 1, teacher, "together"))) == list(alone)


@pytest.mark.slow
def test_a_loader_of_the_users_own_draws_from_the_users_random_state_beside_an_engine(teacher):
    """What a loader draws in this process must not come from the state that another engine has swapped in."""
    tensors = torch.rand(64, 3, 32, 32), torch.arange(64) % 10

    class Noisy(TensorDataset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image + torch.rand(()), label

    def own(folder):
        loader = DataLoader(Noisy(*tensors), 16, shuffle=True)
        given = {key: value for key, value in SMALL.items() if key not in ("data", "batch_size")}
        return numbers(Engine(None, "resnet8@drop_rate=0.5", out=folder, **given).fit(loader, loader))

    found = []
    for folder, run in (("alone", lambda *works: [work() for work in works]), ("together", in_threads)):
        torch.manual_seed(3)
        found.append(run(partial(own, folder), partial(dropping, 1, teacher, folder)))
    assert found[0] == found[1]


def test_warnings_are_as_they_were_after_networks_were_made_in_several_threads():
    before = list(warnings.filters), warnings.showwarning
    makers = [partial(ModelSource("resnet8", {"num_classes": 10}, (3, 32, 32), Registry()).create, seed) for seed in range(4)]
    models = in_threads(*makers)
    assert (list(warnings.filters), warnings.showwarning) == before
    for seed, model in enumerate(models):
        alone = makers[seed]()
        assert all(torch.equal(one, other) for one, other in zip(model.parameters(), alone.parameters(), strict=True))


def test_a_forward_that_is_differentiated_twice_changes_no_forward_of_another_thread():
    entered, left = threading.Event(), threading.Event()

    def inside():
        with twice_differentiable():
            entered.set()
            left.wait(20)

    before = attention()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(inside)
        entered.wait(20)
        assert attention() == before
        left.set()


# memory ---------------------------------------------------------------------------------------------------------------


def test_a_finished_engine_leaves_no_network_behind(teacher):
    own = copy.deepcopy(teacher)
    result = Engine(own, "resnet8", ["fitnet"], **SMALL).fit()
    alive = [weakref.ref(found) for found in (own, result, result.student)]
    del own, result
    gc.collect()
    assert [found() for found in alive] == [None] * 3


@pytest.mark.sample(1)
@pytest.mark.parametrize("run", [taught, interrupted, failing, diverging], ids=lambda run: run.__name__)
def test_engines_one_after_the_other_leave_nothing_behind(run, teacher):
    run = partial(run, teacher) if run in (taught, diverging) else run
    run()  # what is imported and cached once
    before = counts()
    assert before["modules"] >= len(list(teacher.modules())), "what is alive is seen"
    run()
    assert counts() == before


def counts():
    """Live modules, tensors and hooks, by kind."""
    gc.collect()
    alive = gc.get_objects()
    modules = [found for found in alive if issubclass(type(found), torch.nn.Module)]
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)
    return {"modules": len(modules), "tensors": sum(issubclass(type(found), torch.Tensor) for found in alive), "hooks": hooks}


def test_a_teacher_has_no_hooks_after_it_taught(teacher):
    taught(teacher)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in teacher.modules())
    assert not any(module._backward_hooks for module in teacher.modules())

import pytest

from kdengine import Engine, PluginError, hookimpl
from kdengine.storage.runfolder import RunFolder

FAST = {"data": "digits@train=16@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 3}
HOOKS = ("kdengine_before_fit", "kdengine_after_step", "kdengine_after_epoch", "kdengine_after_fit")
SOURCE = """
from kdengine import hookimpl

@hookimpl
def {hook}(run):
    if len(run.lane.history) >= {epochs}:
        helper()

def helper():
    raise ValueError("no pen left")
"""


def engine(out, plugins=(), **more):
    return Engine(None, "resnet8", plugins, out=out, **FAST, **more)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_plugin_that_fails_in_a_hook_is_named_and_what_was_computed_is_kept(hook, tmp_path, distribution, digits):
    epochs = {"kdengine_before_fit": 0, "kdengine_after_fit": 3}.get(hook, 2)
    distribution("draughtsman", SOURCE.format(hook=hook, epochs=epochs), module=f"draughtsman_{hook}")
    with pytest.raises(PluginError) as caught:
        engine(tmp_path / "run", ["draughtsman"]).fit()
    said = str(caught.value)
    assert said.startswith("The plugin 'draughtsman' of draughtsman 1.2 failed in " + hook)
    assert "ValueError: no pen left" in said
    place = RunFolder(tmp_path / "run")
    assert len(place.metrics()) == epochs
    assert (place.result() is not None) == (hook == "kdengine_after_fit")
    if epochs == 2:
        assert caught.value.__notes__ == [f"2 finished epochs are saved. To resume: kdengine run --resume {tmp_path / 'run'}"]


def test_what_an_observer_of_the_caller_raises_is_the_callers_to_catch(tmp_path):
    class Pruned(Exception):
        pass

    class Pruning:
        @hookimpl
        def kdengine_after_epoch(self, record):
            raise Pruned

    with pytest.raises(Pruned):
        engine(tmp_path / "run", observers=[Pruning()]).fit()
    result = Engine.resume(tmp_path / "run").fit()
    assert len(result.history) == 3


def test_an_observer_that_fails_while_an_error_is_told_does_not_hide_it(tmp_path):
    class Clumsy:
        @hookimpl
        def kdengine_after_epoch(self, record):
            raise ZeroDivisionError("first")

        @hookimpl
        def kdengine_on_error(self, error):
            raise ValueError("second")

    with pytest.raises(ZeroDivisionError, match="first") as caught:
        engine(tmp_path / "run", observers=[Clumsy()]).fit()
    assert "and then: ValueError: second" in caught.value.__notes__


def test_a_step_brings_its_terms_detached_and_their_mean_is_that_of_the_epoch(tmp_path):
    seen = []

    class Watching:
        @hookimpl
        def kdengine_after_step(self, run, terms):
            seen.append(terms)

    result = engine(tmp_path / "run", observers=[Watching()]).fit()
    steps = len(seen) // len(result.history)
    assert all(terms.keys() == {"task"} and terms["task"].shape == () for terms in seen)
    assert not any(terms["task"].requires_grad for terms in seen)
    mean = sum(float(terms["task"]) for terms in seen[:steps]) / steps
    assert mean == pytest.approx(result.history[0]["terms"]["task"], rel=0.1), "the last batch of an epoch may be smaller"

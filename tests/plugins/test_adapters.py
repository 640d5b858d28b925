"""Adapters: plugins that make methods of what stands behind a colon."""

import pytest

from kdengine import Engine, PluginError, Registry, SettingsError, hookimpl

ADAPTER = """
from pathlib import Path
from kdengine import Distiller, hookimpl

LOADED = []

def load(text):
    LOADED.append(text)
    if text == "broken":
        raise ValueError("no such thing")
    if text == "odd":
        return object()
    if text == "nameless":
        return type("Nameless", (Distiller,), {"forward": lambda self, step: {}})
    return type("Made", (Distiller,), {"name": "made-" + Path(text).stem, "forward": forward, "__doc__": "Halves the logits."})

def forward(self, step):
    return {"loss": step.student.logits.pow(2).mean()}

@hookimpl
def kdengine_register(registry):
    registry.adapter(NAME, LOAD, form="PATH/FILE")
"""


@pytest.fixture
def acme(distribution):
    """An installed plugin with the adapter ``acme``."""

    def make(name="'acme'", load="load"):
        distribution("kdplugin-acme", ADAPTER.replace("NAME", name).replace("LOAD,", f"{load},"), entry="acme")

    return make


def test_an_adapter_makes_a_method_of_each_text_once(acme):
    acme()
    registry = Registry()
    (method,) = registry.methods("acme:folder/one.py")
    assert method.name == "made-one"
    assert registry.methods("acme:folder/one.py") == [method]
    assert [kind.name for kind in registry.methods("acme:other")] == ["made-other"]
    plugin = next(plugin for plugin in registry.plugins if plugin.name == "acme")
    assert plugin.selected, "its hooks are called"
    assert plugin.module.LOADED == ["folder/one.py", "other"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acme", "Name one that it adapts: acme:PATH/FILE"),
        ("acme:", "Name one that it adapts: acme:PATH/FILE"),
        ("kdplugin-acme", "Name one that it adapts: acme:PATH/FILE"),
        ("acme:broken", "'acme:broken' failed: ValueError: no such thing."),
        ("acme:odd", "The adapter 'acme' of kdplugin-acme .* must return a subclass of kdengine.Distiller"),
        ("acme:nameless", "Nameless has no name"),
        ("amce:one.py", "There is no file 'amce:one.py' in the current folder, '.*'. --plugin takes .*acme:PATH/FILE"),
    ],
)
def test_what_cannot_be_adapted_is_refused_with_the_fix(text, message, acme):
    acme()
    with pytest.raises(PluginError, match=message):
        Registry().methods(text)


@pytest.mark.parametrize(
    ("fault", "message"),
    [({"name": "'a b'"}, "cannot be named 'a b'"), ({"load": "None"}, r"needs a callable load\(text\), got None")],
)
def test_an_adapter_that_is_none_breaks_its_plugin(fault, message, acme):
    acme(**fault)
    with pytest.raises(PluginError, match=message):
        Registry().methods("acme:one")


def test_a_blocked_adapter_is_named(acme):
    acme()
    with pytest.raises(PluginError, match=r"The plugin 'acme' of kdplugin-acme .* is blocked"):
        Registry(allow=["rkd"]).methods("acme:one.py")


def test_a_part_of_a_composition_may_be_adapted(acme, distribution):
    acme()
    source = """
from kdengine import hookimpl

@hookimpl
def kdengine_register(registry):
    registry.composition("both", ["acme:one", "rkd"])
"""
    distribution("kdplugin-both", source, entry="both")
    assert [method.name for method in Registry().methods("both")] == ["made-one", "rkd"]


class Interrupt:
    """Ends a run, but not its teacher's own training, after the first epoch."""

    @hookimpl
    def kdengine_after_epoch(self, run):
        if run.settings.teacher:
            raise KeyboardInterrupt


def test_a_run_keeps_the_text_resumes_by_it_and_asks_for_trust_where_it_names_code(acme, tmp_path):
    acme()
    folder, fast = tmp_path / "run", {"device": "cpu", "batch_size": 16, "epochs": 2, "teacher_train": {"epochs": 1}}
    with pytest.raises(KeyboardInterrupt):
        Engine(
            "resnet8", "resnet8", ["acme:folder/one.py"], "digits@train=32@test=16", out=folder, observers=[Interrupt()], **fast
        ).fit()
    with pytest.raises(SettingsError, match=r"names code that would be run here: method 'acme:folder/one.py'"):
        Engine.resume(folder)
    result = Engine.resume(folder, trust=True).fit()
    assert [set(record["terms"]) for record in result.history] == [{"task", "made-one.loss"}] * 2

import sys
import textwrap
from pathlib import Path

import click
import pytest

from kdengine import PluginError, Registry, hookimpl

METHOD = """
from kdengine import Distiller, hookimpl

class Acme(Distiller):
    '''Halves the logits.'''

    name = "{name}"

    def forward(self, step):
        return {{"loss": step.student.logits.pow(2).mean()}}

@hookimpl
def kdengine_register(registry):
    registry.distiller(Acme)
"""


def method(name):
    return METHOD.format(name=name)


def names(methods):
    return [found.name for found in methods]


def status(registry, name):
    return {plugin.name: plugin.status for plugin in registry.plugins}[name]


def refusal(registry, text):
    with pytest.raises(PluginError) as caught:
        registry.methods(text)
    return str(caught.value)


def write(path, source):
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "text", ["rkd", "kdplugin-rkd", "kdplugin_rkd", "KDplugin.rkd", "kdplugin-rkd:rkd", "kdplugin_rkd:rkd"]
)
def test_a_method_is_found_by_its_name_and_by_its_distribution(text):
    assert names(Registry().methods(text)) == ["rkd"]


def test_a_file_is_a_plugin_without_any_registration(tmp_path):
    source = method("mine").replace("@hookimpl", "").replace("kdengine_register", "unused")
    assert names(Registry().methods(write(tmp_path / "my_kd.py", source))) == ["mine"]


def test_a_file_is_a_plugin_with_a_registration(tmp_path):
    assert names(Registry().methods(write(tmp_path / "my_kd.py", method("mine")))) == ["mine"]


def test_a_file_in_the_working_folder_needs_no_slash(tmp_path, monkeypatch):
    write(tmp_path / "my_kd.py", method("mine"))
    monkeypatch.chdir(tmp_path)
    assert names(Registry().methods("my_kd.py")) == names(Registry().methods("./my_kd.py")) == ["mine"]


def test_a_file_of_several_methods_is_told_apart_by_their_names(tmp_path):
    source = """
    from kdengine import Distiller

    class One(Distiller):
        name = "one"

        def forward(self, step):
            return {}

    class Two(One):
        name = "two"
    """
    file = write(tmp_path / "both.py", source)
    registry = Registry()
    assert f"offers 2 methods. Choose one: {file}:one, {file}:two." in refusal(registry, file)
    assert names(registry.methods(f"{file}:two")) == ["two"]


def test_a_file_is_imported_once_however_often_it_is_selected(tmp_path):
    file = write(tmp_path / "my_kd.py", method("mine"))
    registry = Registry()
    assert registry.methods(file) == registry.methods(file)


def test_a_missing_file_is_named():
    sentence = f"There is no file 'nowhere/my_kd.py' in the current folder, '{Path.cwd()}'. "
    assert sentence in refusal(Registry(), "./nowhere/my_kd.py")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("x = 3", "it has neither a subclass of kdengine.Distiller nor a function marked @hookimpl"),
        (
            "from kdengine import Distiller\nclass Silent(Distiller):\n    name = 'silent'",
            "Silent has no forward(self, step): every method needs one",
        ),
    ],
)
def test_a_file_that_fails_is_answered_in_one_line_with_the_cause(source, said, tmp_path):
    file = write(tmp_path / "bad_kd.py", source)
    answer = refusal(Registry(), file)
    assert answer == f"The plugin file '{file}' failed: {said}."


def test_an_installed_third_party_package_is_found_and_only_what_is_selected_is_imported(distribution, python):
    point = distribution("acme-distillation", method("acme"), entry="acme")
    code = """
        import sys
        from kdengine import Registry
        def imported():
            return sorted(name for name in sys.modules if name.startswith(("kdplugin_", "kdzoo", "acme_")))
        for text in ("acme", "acme-distillation", "acme_distillation:acme"):
            print(Registry().methods(text)[0].name)
        print(imported())
        print(Registry().methods("rkd")[0].name)
        print(imported())
    """
    found = python(code, path=point).splitlines()
    assert found == ["acme", "acme", "acme", "['acme_distillation']", "rkd", "['acme_distillation', 'kdplugin_rkd']"]


def test_a_network_of_the_zoo_is_found_without_importing_any_method(distribution):
    distribution("acme-distillation", method("acme"), entry="acme")
    registry = Registry()
    assert registry.model("resnet8") is not None
    assert status(registry, "acme") == status(registry, "rkd") == "found"
    assert "acme_distillation" not in sys.modules


@pytest.mark.parametrize("failure", ["raise BaseException('odd')", "raise SystemExit", "raise GeneratorExit"])
def test_a_plugin_that_ends_by_more_than_an_error_is_broken_and_stops_no_other(failure, distribution):
    distribution("kdplugin-odd", failure)
    registry = Registry()
    registry.load_all()
    assert status(registry, "kdplugin-odd") == "broken"
    assert names(registry.methods("rkd")) == ["rkd"]


def test_one_entry_point_twice_in_one_distribution_leaves_the_first_as_it_is(distribution):
    point = distribution("kdplugin-two", method("two"))
    (point / "kdplugin_other.py").write_text(
        "import pluggy\nkdengine_register = pluggy.HookimplMarker('kdengine')(lambda: 1 / 0)\n"
    )
    points = "[kdengine]\ntwo = kdplugin_two\ntwo = kdplugin_other\n"
    (point / "kdplugin_two-1.2.dist-info" / "entry_points.txt").write_text(points)
    registry = Registry()
    registry.load_all()
    assert [plugin.status for plugin in registry.plugins if plugin.name == "two"] == ["loaded", "broken"]
    assert len(registry.manager.get_plugins()) == sum(plugin.status == "loaded" for plugin in registry.plugins)


def test_a_plugin_that_fails_to_add_its_commands_is_broken_and_stops_no_other(distribution):
    source = "from kdengine import hookimpl\n\n@hookimpl\ndef kdengine_commands(cli):\n    {}\n"
    distribution("kdplugin-a", source.format("1 / 0"))
    distribution("kdplugin-b", source.format("cli.command('greet')(lambda: None)"))
    registry, cli = Registry(), click.Group()
    registry.add_commands(cli)
    assert list(cli.commands) == ["greet"]
    assert (status(registry, "kdplugin-a"), status(registry, "kdplugin-b")) == ("broken", "loaded")


@pytest.mark.parametrize("path", ["a" * 300 + ".py", "/" + "a" * 300 + "/x", "\0.py"], ids=["file", "folder", "zero"])
def test_what_cannot_be_a_path_is_a_file_that_is_missing(path):
    assert "There is no file" in refusal(Registry(), path)


def test_what_cannot_be_a_file_is_no_recipe():
    with pytest.raises(PluginError, match="There is no recipe"):
        Registry().recipe("a" * 300)


def test_making_a_registry_imports_neither_torch_nor_any_plugin(python):
    code = """
        import sys
        from kdengine.plugins.registry import Registry
        Registry()
        print(sorted(name for name in sys.modules if name == "torch" or name.startswith(("kdplugin_", "kdzoo"))))
    """
    assert python(code) == "[]"


def test_a_broken_plugin_that_is_not_selected_changes_nothing_and_shows_as_broken(distribution):
    distribution("kdplugin-bad", "import no_such_module_at_all", entry="bad")
    registry = Registry()
    assert names(registry.methods("rkd")) == ["rkd"]
    assert status(registry, "bad") == "found"
    registry.load_all()
    assert status(registry, "bad") == "broken"
    assert status(registry, "rkd") == status(registry, "st") == "loaded"


@pytest.mark.parametrize("text", ["bad", "kdplugin-bad", "kdplugin-bad:bad"])
def test_a_broken_plugin_that_is_selected_is_answered_with_distribution_version_cause_and_fix(text, distribution):
    distribution("kdplugin-bad", "import no_such_module_at_all", entry="bad", version="3.4")
    assert refusal(Registry(), text) == (
        "The plugin 'bad' of kdplugin-bad 3.4 is broken: ModuleNotFoundError: No module named 'no_such_module_at_all'. "
        "Reinstall or update it: pip install -U kdplugin-bad."
    )


def test_a_plugin_that_leaves_the_interpreter_is_only_broken(distribution):
    distribution("kdplugin-exits", "import sys\nsys.exit(3)", entry="exits")
    registry = Registry()
    registry.load_all()
    assert status(registry, "exits") == "broken"
    assert "SystemExit: 3" in refusal(registry, "exits")


def test_a_plugin_that_fails_while_it_registers_offers_nothing(distribution):
    distribution("kdplugin-half", method("half") + "    raise RuntimeError('half way')\n", entry="half")
    registry = Registry()
    assert "is broken: RuntimeError: half way. Reinstall" in refusal(registry, "half")
    assert "half" not in registry.offered("methods")
    assert not [plugin for plugin in registry.manager.get_plugins() if "half" in repr(plugin)]


def test_a_method_of_a_broken_plugin_is_answered_with_the_plugin_that_is_broken(distribution):
    distribution("kdplugin-bad", "import no_such_module_at_all", entry="bad")
    assert "Not usable: 'bad' (broken)." in refusal(Registry(), "something-of-bad")


def test_two_distributions_with_one_method_are_both_named(distribution):
    distribution("kdplugin-one", method("shared"), entry="shared", version="1.0")
    distribution("kdplugin-two", method("shared"), entry="shared", version="2.0")
    registry = Registry()
    assert refusal(registry, "shared") == (
        "Both kdplugin-one 1.0 and kdplugin-two 2.0 offer 'shared'. "
        "Choose one: --plugin kdplugin-one:shared or --plugin kdplugin-two:shared."
    )
    (chosen,) = registry.methods("kdplugin-two:shared")
    assert chosen.__module__ == "kdplugin_two"


def test_the_second_of_two_distributions_with_one_method_shows_as_shadowed(distribution):
    distribution("kdplugin-one", method("shared"), entry="one", version="1.0")
    distribution("kdplugin-two", method("shared"), entry="two", version="2.0")
    registry = Registry()
    registry.load_all()
    assert (status(registry, "one"), status(registry, "two")) == ("loaded", "shadowed")
    (reason,) = [plugin.reason for plugin in registry.plugins if plugin.name == "two"]
    assert reason == "'shared' is also offered by kdplugin-one 1.0"
    assert names(registry.methods("two")) == ["shared"]


def test_a_distribution_of_several_methods_lists_them(distribution):
    source = method("hard") + "    registry.distiller(Soft)\n\nclass Soft(Acme):\n    name = 'soft'\n"
    distribution("kdplugin-several", source, entry="several")
    registry = Registry()
    for text in ("kdplugin-several", "several"):
        answer = refusal(registry, text)
        assert answer == f"kdplugin-several 1.2 offers 2 methods. Choose one: {text}:hard, {text}:soft."
    assert names(registry.methods("kdplugin-several:hard")) == ["hard"]
    assert names(registry.methods("kdplugin_several:soft")) == ["soft"]
    assert names(registry.methods("several:soft")) == ["soft"]
    assert "but not 'sotf'. Did you mean 'soft'?" in refusal(registry, "kdplugin-several:sotf")


def test_a_method_whose_plugin_has_another_name_is_found(distribution):
    distribution("kdplugin-acme", method("acme-hard"), entry="acme")
    assert names(Registry().methods("acme-hard")) == ["acme-hard"]


def test_an_unknown_method_is_answered_with_the_nearest_one():
    assert refusal(Registry(), "fitnett").startswith("There is no plugin 'fitnett'. Did you mean 'fitnet'?")
    assert refusal(Registry(), "kdplugin-fitnett").startswith(
        "There is no plugin 'kdplugin-fitnett'. Did you mean 'kdplugin-fitnet'"
    )
    assert refusal(Registry(), "kdplugin-nope:rkd").startswith("There is no plugin 'kdplugin-nope'.")


def test_an_unknown_method_near_nothing_is_answered_with_those_installed():
    assert "Installed: ab, at, cat-kd, cc, " in refusal(Registry(), "zzzzzzzz")


def test_without_any_method_the_answer_says_how_to_install_them(monkeypatch):
    monkeypatch.setattr("kdengine.plugins.registry.discover", lambda: iter(()))
    assert "No methods are installed; pip install 'kdengine[all]'" in refusal(Registry(), "rkd")


def test_methods_that_are_all_blocked_are_not_called_missing():
    answer = refusal(Registry(allow=()), "zzzzzzzz")
    assert answer.startswith("There is no plugin 'zzzzzzzz'. Not usable: 'ab' (blocked), ")
    assert "pip install" not in answer


def test_an_empty_allow_list_blocks_everything(monkeypatch):
    monkeypatch.setenv("KDENGINE_LOAD_PLUGINS", "")
    registry = Registry()
    assert {plugin.status for plugin in registry.plugins} == {"blocked"}
    assert refusal(registry, "rkd") == (
        "The plugin 'rkd' of kdplugin-rkd 0.1.0 is blocked: not listed in KDENGINE_LOAD_PLUGINS. "
        "Add 'rkd' to KDENGINE_LOAD_PLUGINS."
    )
    assert registry.model("resnet8") is None


@pytest.mark.parametrize("allowed", ["rkd,kdzoo", " kdplugin_rkd , kdzoo,"])
def test_an_allow_list_is_exact(allowed, monkeypatch):
    monkeypatch.setenv("KDENGINE_LOAD_PLUGINS", allowed)
    registry = Registry()
    registry.load_all()
    assert {plugin.name for plugin in registry.plugins if plugin.status == "loaded"} == {"rkd", "kdzoo"}
    assert status(registry, "st") == "blocked"


def test_the_allow_list_can_be_given_in_python(monkeypatch):
    monkeypatch.setenv("KDENGINE_LOAD_PLUGINS", "")
    assert names(Registry(allow=["st"]).methods("st")) == ["st"]


def test_a_blocked_plugin_is_not_imported(distribution, monkeypatch):
    distribution("kdplugin-blocked", "raise AssertionError('imported')", entry="blocked")
    monkeypatch.setenv("KDENGINE_LOAD_PLUGINS", "st")
    registry = Registry()
    registry.load_all()
    assert status(registry, "blocked") == "blocked"
    assert "kdplugin_blocked" not in sys.modules


def test_a_misspelt_hook_is_found_and_named(distribution):
    distribution("kdplugin-typo", method("typo").replace("kdengine_register", "kdengine_regster"), entry="typo")
    answer = refusal(Registry(), "typo")
    assert "is broken: PluginValidationError: unknown hook 'kdengine_regster'" in answer


def test_a_misspelt_hook_of_one_plugin_is_not_held_against_another(distribution):
    distribution("kdplugin-typo", method("typo").replace("kdengine_register", "kdengine_regster"), entry="typo")
    registry = Registry()
    registry.load_all()
    assert names(registry.methods("rkd")) == ["rkd"]
    assert status(registry, "typo") == "broken"


def test_a_hook_that_asks_for_an_unknown_argument_is_named(distribution):
    source = method("asks").replace("kdengine_register(registry)", "kdengine_register(registry, engine)")
    distribution("kdplugin-asks", source, entry="asks")
    registry = Registry()
    answer = refusal(registry, "asks")
    assert "kdengine_register" in answer
    assert "engine" in answer
    assert names(registry.methods("rkd")) == ["rkd"]


def test_plugins_are_listed_in_the_same_order_however_they_were_loaded():
    first, second = Registry(), Registry()
    first.methods("st")
    first.methods("at")
    first.load_all()
    second.load_all()
    assert [plugin.name for plugin in first.plugins] == [plugin.name for plugin in second.plugins]
    assert list(first.offered("methods")) == list(second.offered("methods"))
    assert list(first.offered("methods")) == sorted(first.offered("methods"))


COMPOSITION = """
from kdengine import hookimpl

@hookimpl
def kdengine_register(registry):
    registry.composition("{name}", {parts})
"""


@pytest.mark.parametrize("text", ["both", "kdplugin-both", "kdplugin-both:both"])
def test_a_composition_is_its_methods_in_order(text, distribution):
    distribution("kdplugin-both", COMPOSITION.format(name="both", parts=["st", "rkd", "st"]), entry="both")
    assert names(Registry().methods(text)) == ["st", "rkd", "st"]


def test_a_composition_of_compositions_is_all_their_methods(distribution):
    distribution("kdplugin-inner", COMPOSITION.format(name="inner", parts=["st", "rkd"]), entry="inner")
    distribution("kdplugin-outer", COMPOSITION.format(name="outer", parts=["at", "inner"]), entry="outer")
    assert names(Registry().methods("outer")) == ["at", "st", "rkd"]


def test_a_composition_that_contains_itself_is_refused(distribution):
    distribution("kdplugin-inner", COMPOSITION.format(name="inner", parts=["st", "outer"]), entry="inner")
    distribution("kdplugin-outer", COMPOSITION.format(name="outer", parts=["inner"]), entry="outer")
    expected = "The composition 'outer' contains itself: outer > inner > outer. This is a bug in the plugin."
    assert refusal(Registry(), "outer") == expected


def test_a_composition_in_a_file_may_use_the_methods_of_the_file(tmp_path):
    source = method("mine") + "    registry.composition('mixed', ['mine', 'st'])\n"
    file = write(tmp_path / "my_kd.py", source)
    registry = Registry()
    assert names(registry.methods(f"{file}:mixed")) == ["mine", "st"]
    assert names(registry.methods(file)) == ["mine"]


def test_a_file_with_the_name_of_an_installed_method_stands_beside_it(tmp_path):
    file = write(tmp_path / "my_kd.py", method("rkd"))
    registry = Registry()
    (mine,) = registry.methods(file)
    (installed,) = registry.methods("rkd")
    assert mine is not installed
    assert installed.__module__ == "kdplugin_rkd"


OBSERVER = """
from kdengine import hookimpl

seen = []

@hookimpl
def kdengine_after_epoch(record):
    seen.append(record)
"""


@pytest.mark.parametrize("text", ["watcher", "kdplugin-watcher"])
def test_a_plugin_that_only_observes_offers_no_method_and_hears_the_hooks(text, distribution):
    distribution("kdplugin-watcher", OBSERVER, entry="watcher")
    registry = Registry()
    assert registry.methods(text) == []
    registry.manager.hook.kdengine_after_epoch(run=None, record={"epoch": 1})
    (watcher,) = [plugin for plugin in registry.manager.get_plugins() if plugin.__name__ == "kdplugin_watcher"]
    assert watcher.seen == [{"epoch": 1}]


def test_a_file_that_only_observes_is_a_plugin(tmp_path):
    assert Registry().methods(write(tmp_path / "watch.py", OBSERVER)) == []


def test_two_registries_do_not_disturb_each_other(distribution, tmp_path):
    distribution("kdplugin-watcher", OBSERVER, entry="watcher")
    first, second = Registry(), Registry(allow=[])
    first.methods("watcher")
    first.methods(write(tmp_path / "my_kd.py", method("mine")))
    assert status(second, "watcher") == "blocked"
    assert list(second.manager.get_plugins()) == []
    assert second.offered("methods") == {}
    assert "mine" in first.offered("methods")


def test_networks_data_and_recipes_of_a_plugin_are_found_by_name(distribution, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "acme-30.toml").write_text("seed = 1\n")
    source = f"""
    from kdengine import hookimpl

    @hookimpl
    def kdengine_register(registry):
        registry.model("acme-net", list)
        registry.dataset("acme-set", dict)
        registry.recipes({str(tmp_path / "recipes")!r})
    """
    distribution("acme", source)
    registry = Registry()
    assert registry.model("acme-net") is list
    assert registry.dataset("acme-set") is dict
    assert registry.recipe("acme-30") == tmp_path / "recipes" / "acme-30.toml"
    assert registry.model("acme-nett") is None
    with pytest.raises(PluginError, match=r"There is no recipe 'acme-3'\. Did you mean 'acme-30'"):
        registry.recipe("acme-3")


def test_networks_of_a_plugin_file_are_found_by_name(tmp_path):
    source = """
    from kdengine import hookimpl

    @hookimpl
    def kdengine_register(registry):
        registry.model("file-net", list)
    """
    registry = Registry()
    registry.methods(write(tmp_path / "nets.py", source))
    assert registry.model("file-net") is list


def test_a_file_that_failed_can_be_mended_and_asked_for_again(tmp_path):
    registry, file = Registry(), tmp_path / "mine.py"
    file.write_text("VALUE = 1\n")
    for _ in range(2):
        with pytest.raises(PluginError, match="neither a subclass"):
            registry.methods(str(file))


def test_an_observer_with_a_hook_that_is_none_is_refused_with_the_hooks_there_are():
    class Misspelt:
        @hookimpl
        def kdengine_after_stepp(self):
            """Never called."""

    with pytest.raises(PluginError, match=r"cannot be used: .*The hooks are: .*kdengine_after_step,"):
        Registry().hooks([Misspelt()])


def test_an_observer_that_would_never_be_called_is_refused():
    class Unmarked:
        def kdengine_after_epoch(self, record):
            """Lacks @hookimpl."""

    class Unknown:
        @hookimpl
        def kdengine_after_epoch(self, rows):
            """Asks for what no hook gives."""

    for observer, said in (
        (Unmarked(), r"Unmarked\.kdengine_after_epoch would never be called: mark it with @hookimpl"),
        (Unknown(), r"Unknown cannot be used: .*'rows'"),
        (Unmarked, r"Unmarked was given as a class\. .* Unmarked\(\)"),
        (print, r"print has no hooks, so nothing of it would be called"),
    ):
        with pytest.raises(PluginError, match=said):
            Registry().hooks([observer])

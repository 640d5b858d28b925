import sys
from types import SimpleNamespace

import pytest

from kdengine import Distiller, PluginError, Registry
from kdengine.errors import cause
from kdengine.plugins.discovery import Composition, Plugin, Registrar, canonical, discover, distillers_in, import_file


class Complete(Distiller):
    """A method."""

    name = "complete"

    def forward(self, step):
        return {"loss": step.student.logits.mean()}


@pytest.fixture
def offered():
    return Plugin("mine", "kdplugin-mine", "1.0", "kdplugin_mine")


def test_the_plugins_of_the_repository_are_discovered_with_distribution_and_version():
    found = {plugin.name: plugin for plugin in discover()}
    assert {"at", "fitnet", "rkd", "st", "kdzoo"} <= set(found)
    assert found["rkd"].title == "kdplugin-rkd 0.1.0"
    assert found["rkd"].target == "kdplugin_rkd"
    assert found["rkd"].status == "found"


def test_discovery_imports_nothing(distribution):
    distribution("kdplugin-untouched", "raise AssertionError('imported')")
    assert "kdplugin-untouched" in [plugin.name for plugin in discover()]
    assert "kdplugin_untouched" not in sys.modules


def test_plugins_are_discovered_in_alphabetical_order_whatever_the_order_on_the_path(distribution):
    for name in ("zzz-kd", "aaa-kd", "mmm-kd"):
        distribution(name, "")
    names = [plugin.name for plugin in discover()]
    assert names == sorted(names)
    assert {"aaa-kd", "mmm-kd", "zzz-kd"} < set(names)


def test_a_distribution_that_stands_on_the_path_twice_counts_once(distribution, tmp_path, monkeypatch):
    distribution("kdplugin-twice", "", version="1.0")
    monkeypatch.syspath_prepend(tmp_path / "other")
    info = tmp_path / "other" / "KDplugin_Twice-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: KDplugin_Twice\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[kdengine]\ntwice = kdplugin_twice\n")
    found = [plugin for plugin in discover() if canonical(plugin.distribution) == "kdplugin-twice"]
    assert [plugin.version for plugin in found] == ["2.0"]


@pytest.mark.parametrize(("folder", "file"), [("headed-1.5.dist-info", "METADATA"), ("headed.egg-info", "PKG-INFO")])
def test_name_and_version_are_those_of_the_head_whatever_the_readme_below_says(folder, file, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / folder).mkdir()
    (tmp_path / folder / file).write_text("Metadata-Version: 2.1\nName: headed\nVersion: 1.5\n\nName: other\nVersion: 9\n")
    (tmp_path / folder / "entry_points.txt").write_text("[kdengine]\nheaded-kd = headed\n")
    (found,) = [plugin for plugin in discover() if plugin.name == "headed-kd"]
    assert found.title == "headed 1.5"


def test_a_damaged_installation_does_not_hide_the_others(distribution):
    point = distribution("kdplugin-sound", "")
    (point / "damaged-1.0.dist-info").mkdir()
    (point / "damaged-1.0.dist-info" / "entry_points.txt").write_text("[kdengine]\ndamaged = damaged\n")
    (point / "odd-1.0.dist-info").mkdir()
    (point / "odd-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (point / "odd-1.0.dist-info" / "entry_points.txt").write_text("[kdengine\nno toml, no ini = \n")
    assert {"kdplugin-sound", "rkd"} <= {plugin.name for plugin in discover()}


@pytest.mark.parametrize("name", ["kdplugin-rkd", "kdplugin_rkd", "KDPlugin.RKD", "kdplugin__rkd"])
def test_names_of_distributions_are_compared_as_package_indexes_compare_them(name):
    assert canonical(name) == "kdplugin-rkd"


def test_a_cause_is_one_line_and_says_its_kind_unless_it_is_ours():
    assert cause(ValueError("a\n  b")) == "ValueError: a b"
    assert cause(PluginError("a\nb")) == "a b"
    assert cause(SystemExit()) == "SystemExit: no message"


def test_a_cause_that_cannot_be_printed_is_still_named():
    class Odd(Exception):
        def __str__(self):
            raise ValueError

    assert cause(Odd()) == "Odd: no message"


def test_everything_a_plugin_offers_is_kept_under_its_name(offered, tmp_path):
    registrar = Registrar(offered)
    registrar.distiller(Complete)
    registrar.composition("pair", ["complete", "st"])
    registrar.model("net", list)
    registrar.dataset("set", dict)
    registrar.recipes(tmp_path)
    assert offered.methods == {"complete": Complete}
    assert offered.compositions == {"pair": Composition(("complete", "st"))}
    assert (offered.models, offered.datasets, offered.recipes) == ({"net": list}, {"set": dict}, [tmp_path])
    assert offered.selectable == {"pair": Composition(("complete", "st")), "complete": Complete}


def test_what_was_offered_can_be_withdrawn(offered, tmp_path):
    registrar = Registrar(offered)
    registrar.distiller(Complete)
    registrar.model("net", list)
    offered.withdraw()
    assert not offered.methods
    assert not offered.models


@pytest.mark.parametrize("thing", [object, Complete(), "rkd"])
def test_what_is_no_distiller_cannot_be_offered_as_one(offered, thing):
    with pytest.raises(PluginError, match=r"takes a subclass of kdengine\.Distiller, got"):
        Registrar(offered).distiller(thing)


def test_a_distiller_without_forward_is_refused_when_it_is_offered(offered):
    class Silent(Distiller):
        name = "silent"

    with pytest.raises(PluginError, match=r"Silent has no forward\(self, step\)"):
        Registrar(offered).distiller(Silent)


def test_a_distiller_without_a_name_is_refused_when_it_is_offered(offered):
    class Nameless(Distiller):
        def forward(self, step):
            return {}

    with pytest.raises(PluginError, match="Nameless has no name: write name ="):
        Registrar(offered).distiller(Nameless)


def test_a_distiller_whose_options_are_no_options_is_refused_when_it_is_offered(offered):
    class Loose(Complete):
        class Options:
            weight = 1.0

    with pytest.raises(PluginError, match=r"write class Options\(Distiller\.Options\)"):
        Registrar(offered).distiller(Loose)


@pytest.mark.parametrize("word", ["", "a b", "a.b", "a:b", "a/b", "-a", "train", "student"])
def test_a_name_that_the_command_line_cannot_say_is_refused(offered, word):
    with pytest.raises(PluginError, match="cannot be named"):
        Registrar(offered).distiller(type("Odd", (Complete,), {"name": word}))
    with pytest.raises(PluginError, match="cannot be named"):
        Registrar(offered).composition(word, ["st"])


@pytest.mark.parametrize("methods", ["st", [], [5], None])
def test_a_composition_of_no_names_is_refused(offered, methods):
    with pytest.raises(PluginError, match="needs a list of method names"):
        Registrar(offered).composition("pair", methods)


@pytest.mark.parametrize("name", [None, 5, "", "a b", "a:b", "a@b"])
def test_a_network_or_data_whose_name_no_spec_can_say_is_refused(offered, name):
    for offer in (Registrar(offered).model, Registrar(offered).dataset):
        with pytest.raises(PluginError, match="cannot be named"):
            offer(name, list)


def test_a_network_data_or_recipes_of_nothing_are_refused(offered):
    for offer in (Registrar(offered).model, Registrar(offered).dataset):
        with pytest.raises(PluginError, match="needs a callable factory"):
            offer("net", 5)
    with pytest.raises(PluginError, match="takes an existing folder"):
        Registrar(offered).recipes(None)
    with pytest.raises(PluginError, match="takes an existing folder"):
        Registrar(offered).recipes("nowhere")


def test_a_distiller_whose_options_are_no_class_is_refused_when_it_is_offered(offered):
    class Loose(Complete):
        Options = 5

    with pytest.raises(PluginError, match=r"write class Options\(Distiller\.Options\)"):
        Registrar(offered).distiller(Loose)


def test_a_distribution_without_a_name_is_skipped(distribution):
    point = distribution("kdplugin-sound", "")
    (point / "nameless-1.0.dist-info").mkdir()
    (point / "nameless-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName:\nVersion: 1.0\n")
    (point / "nameless-1.0.dist-info" / "entry_points.txt").write_text("[kdengine]\nnameless = nameless\n")
    names = {plugin.name for plugin in discover()}
    assert "kdplugin-sound" in names
    assert "nameless" not in names


@pytest.mark.parametrize("attributes", [{"taps": 5}, {"presets": [1]}, {"__doc__": 5}])
def test_a_distiller_that_cannot_be_described_is_refused_when_it_is_offered(offered, attributes):
    with pytest.raises(PluginError, match=r"cannot be described: .*Error"):
        Registrar(offered).distiller(type("Odd", (Complete,), attributes))


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "my_kd.py").write_text(f"number = {number}\n")
    first, second = (import_file(tmp_path / f"{number}" / "my_kd.py") for number in (1, 2))
    assert (first.number, second.number) == (1, 2)
    assert sys.modules[first.__name__] is first
    assert sys.modules[second.__name__] is second


def test_a_file_that_fails_leaves_no_module_behind(tmp_path):
    (tmp_path / "half_done.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_file(tmp_path / "half_done.py")
    assert not [name for name in sys.modules if "half_done" in name]


def test_a_module_has_the_complete_distillers_that_it_defines_itself():
    class Base(Complete):
        def build(self, pair):
            """Connectors."""

    class Abstract(Distiller):
        """A base class of others."""

    module = SimpleNamespace(__name__=Base.__module__, Base=Base, Abstract=Abstract, Distiller=Distiller, other=3)
    assert distillers_in(module) == {"complete": Base}


def test_a_module_of_incomplete_distillers_alone_is_refused_with_what_is_missing():
    class Silent(Distiller):
        name = "silent"

    with pytest.raises(PluginError, match="Silent has no forward"):
        distillers_in(SimpleNamespace(__name__=Silent.__module__, Silent=Silent))


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ("1", None),
        ("(1, 3)", None),
        ("None", None),
        ("2", "written for version 2 of kdengine's contract with plugins, and this is version 1. Update kdengine"),
        ("(-2, 0)", "written for version -2 to 0 of kdengine's contract with plugins, and this is version 1. Update the"),
        ("'1'", "KDENGINE_API = '1' is not a version, such as 1"),
    ],
)
def test_a_plugin_for_another_version_of_the_contract_is_incompatible(declared, reason, distribution):
    distribution("kdplugin-dated", f"KDENGINE_API = {declared}")
    registry = Registry(allow=["kdplugin-dated"])
    registry.load_all()
    (dated,) = (plugin for plugin in registry.plugins if plugin.name == "kdplugin-dated")
    if reason is None:
        assert (dated.status, dated.reason) == ("loaded", "")
        return
    assert dated.status == "incompatible"
    assert reason in dated.reason
    with pytest.raises(PluginError, match="is incompatible"):
        registry.methods("kdplugin-dated")


def test_a_file_for_another_version_of_the_contract_is_refused(tmp_path):
    (tmp_path / "dated.py").write_text("KDENGINE_API = 7\n")
    with pytest.raises(PluginError, match="written for version 7"):
        Registry().methods(str(tmp_path / "dated.py"))

import pytest

from kdengine.cli.catalogue import year_of

BROKEN = "import nonexistent_package\n"


@pytest.fixture
def without(monkeypatch):
    """Only these plugins are there."""
    return lambda *names: monkeypatch.setenv("KDENGINE_LOAD_PLUGINS", ",".join(names))


def test_all_installed_methods_are_listed_with_what_ships_them(kdengine):
    data = kdengine("plugins", "--json").json
    plugins = {plugin["name"]: plugin for plugin in data["plugins"]}
    for name in ("st", "fitnet", "at", "rkd"):
        assert plugins[name]["status"] == "loaded"
        assert plugins[name]["distribution"] == f"kdplugin-{name}"
        assert plugins[name]["methods"] == [name]
    assert "resnet8" in plugins["kdzoo"]["models"]
    assert {method["name"] for method in data["methods"]} >= {"st", "fitnet", "at", "rkd"}


def test_people_see_the_same(kdengine):
    said = kdengine("plugins")
    assert said.code == 0
    row = next(line for line in said.out.splitlines() if line.startswith("rkd"))
    assert "kdplugin-rkd" in row
    assert "loaded" in row
    assert "relational" in row


def test_a_method_shows_its_paper_its_taps_and_every_option(kdengine):
    facts = kdengine("plugins", "show", "rkd", "--json").json
    assert "CVPR 2019" in facts["source"]
    assert facts["taps"] == ["embedding"]
    assert facts["options"]["angle"] == {"default": 50.0, "help": "Weight of the angle term.", "type": "float"}
    out = kdengine("plugins", "show", "rkd").out
    row = next(line for line in out.splitlines() if line.startswith("-o rkd.angle="))
    assert "50.0" in row
    assert "Weight of the angle term." in row
    assert "tuple[str, ...]" in out, "brackets are text, not markup"


def test_groups_are_listed_and_the_methods_of_one_shown(kdengine):
    out = kdengine("plugins").out
    assert "Groups: all (" in out
    assert "classic (" in out
    found = kdengine("plugins", "--group", "relations", "--json").json
    assert {method["name"] for method in found} >= {"rkd", "sp"}
    assert all("relations" in method["groups"] for method in found)
    assert "similarity" in kdengine("plugins", "--group", "relations").out.lower()
    said = kdengine("plugins", "--group", "relatons")
    assert (said.code, said.out) == (2, "")
    assert "'relations'" in said.err
    assert "Groups: relations, classic" in kdengine("plugins", "show", "rkd").out


def test_a_year_is_no_number_of_a_preprint():
    assert year_of("Park et al., CVPR 2019, arXiv:1904.05068.") == 2019
    assert year_of("arXiv:2010.11929; ICLR 2021") == 2021
    assert year_of("nobody knows") is None


def test_the_catalogue_survives_a_composition_of_nothing_and_bars(kdengine, distribution):
    source = "from kdengine import hookimpl\n\n@hookimpl\ndef kdengine_register(registry):\n"
    distribution("kdplugin-odd", source + "    registry.composition('pair', ['nothing'], source='a|b')\n")
    page = kdengine("plugins", "--markdown").out
    assert "## Others" in page
    assert r"a\|b |" in page


def test_an_observer_is_told_from_a_method(kdengine):
    said = kdengine("plugins", "show", "tensorboard")
    assert said.code == 0
    assert "tensorboard is not a method: it observes runs that select it with --plugin tensorboard" in said.out


ADAPTER = """
from kdengine import hookimpl

@hookimpl
def kdengine_register(registry):
    registry.adapter("acme", len, form="PATH/FILE")
"""


def test_an_adapter_is_listed_with_the_form_of_what_it_takes(kdengine, distribution):
    distribution("kdplugin-acme", ADAPTER, entry="acme")
    listed = {plugin["name"]: plugin for plugin in kdengine("plugins", "--json").json["plugins"]}
    assert listed["acme"]["adapters"] == {"acme": "PATH/FILE"}
    assert "acme:PATH/FILE" in kdengine("plugins").out
    said = kdengine("plugins", "show", "acme")
    assert said.code == 2
    assert "Name one that it adapts: acme:PATH/FILE" in said.err


def test_an_unknown_method_is_told_with_the_nearest(kdengine):
    said = kdengine("plugins", "show", "rdk")
    assert (said.code, said.out) == (2, "")
    assert "'rkd'" in said.err


def test_a_broken_plugin_is_listed_with_its_reason_and_only_a_check_fails(kdengine, distribution):
    assert kdengine("plugins", "--check").code == 0
    distribution("kdplugin-acme", BROKEN, entry="acme")
    said = kdengine("plugins", "--json")
    assert said.code == 0
    acme = next(plugin for plugin in said.json["plugins"] if plugin["name"] == "acme")
    assert acme["status"] == "broken"
    assert "nonexistent_package" in acme["reason"]
    checked = kdengine("plugins", "--check")
    assert checked.code == 2
    assert "nonexistent_package" in checked.out
    assert kdengine("plugins", "show", "st").code == 0


def test_a_broken_plugin_that_a_run_selects_stops_it_with_what_and_why(kdengine, distribution, here):
    distribution("kdplugin-acme", BROKEN, entry="acme")
    said = kdengine("run", "--plugin", "acme", "--teacher", "resnet14", "--student", "resnet8")
    assert said.code == 2
    assert len(said.err.strip().splitlines()) == 1
    for piece in ("kdplugin-acme 1.2", "broken", "nonexistent_package", "pip install"):
        assert piece in said.err
    assert not list(here.iterdir())


def test_blocked_plugins_are_listed_as_such(kdengine, without):
    without("st")
    plugins = {plugin["name"]: plugin["status"] for plugin in kdengine("plugins", "--json").json["plugins"]}
    assert (plugins["st"], plugins["rkd"]) == ("loaded", "blocked")


def test_a_composition_of_a_method_that_is_not_there_is_listed_as_unusable(kdengine, distribution):
    source = "from kdengine import hookimpl\n\n@hookimpl\ndef kdengine_register(registry):\n"
    distribution("kdplugin-odd", source + "    registry.composition('pair', ['nothing'])\n")
    methods = {method["name"]: method for method in kdengine("plugins", "--json").json["methods"]}
    assert methods["pair"]["summary"].startswith("Not usable: There is no plugin 'nothing'.")
    assert "rkd" in methods


def test_a_default_that_json_does_not_know_is_shown_as_text(kdengine, distribution):
    source = """
    from pathlib import Path
    from kdengine import Distiller, hookimpl

    class Odd(Distiller):
        name = "odd"

        class Options(Distiller.Options):
            file: Path = Path("a/b")

        def forward(self, step):
            return {}

    @hookimpl
    def kdengine_register(registry):
        registry.distiller(Odd)
    """
    distribution("kdplugin-odd", source)
    assert kdengine("plugins", "show", "odd", "--json").json["options"]["file"]["default"] == "a/b"
    assert '"a/b"' in kdengine("plugins", "show", "odd").out
    assert kdengine("plugins", "--json").code == 0

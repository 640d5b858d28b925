"""Every first-party package, of methods, of an observer or of a launcher, is described and listed like every other."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kdengine import Registry
from kdengine.cli.catalogue import year_of
from kdengine.plugins.groups import has_loss

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(file.parent for file in ROOT.glob("plugins/kdplugin-*/pyproject.toml"))

pytestmark = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def readme(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def loaded(folder):
    """The registry with this package alone."""
    registry = Registry(allow=[folder.name])
    registry.load_all()
    return registry


def plugins(folder):
    """What the package's entry points offer, by their names."""
    return {plugin.name: plugin for plugin in loaded(folder).plugins if plugin.distribution == folder.name}


def observers(folder):
    """The names of the entry points that hear of runs."""
    manager = loaded(folder).manager
    heard = {name: {caller.name for caller in manager.get_hookcallers(plugin)} for name, plugin in manager.list_name_plugin()}
    return [name.removeprefix(f"{folder.name}:") for name, hooks in heard.items() if hooks - {"kdengine_register"}]


def methods(folder):
    return [method for plugin in plugins(folder).values() for method in plugin.methods.values()]


def launchers(folder):
    return [launcher for plugin in plugins(folder).values() for launcher in plugin.launchers.values()]


def shown(default):
    """A default as the table of options writes it: TOML's words, lists without their brackets."""
    if isinstance(default, bool):
        default = str(default).lower()
    if isinstance(default, tuple):
        default = ", ".join(map(str, default))
    return "none" if default in (None, "", {}) else f"`{default}`"


def rows(method):
    """What each row of the table of options begins with; of inherited options, name and default."""
    for name, option in method.describe()["options"].items():
        default = method.taps if name == "taps" else option["default"]
        help_ = f"{option['help']} |" if name in method.Options.__annotations__ else ""
        yield f"| `{name}` | {shown(default)} | {help_}"


def test_every_entry_point_offers_something(folder):
    offered = plugins(folder)
    assert project(folder)["name"] == folder.name
    assert list(offered) == sorted(project(folder)["entry-points"]["kdengine"]), "install it: pip install -e FOLDER"
    useful = [name for name, plugin in offered.items() if plugin.selectable or plugin.adapters or plugin.launchers]
    useful += observers(folder)
    assert {name: plugin.reason for name, plugin in offered.items() if name not in useful} == {}


def test_every_option_stands_in_the_readme_with_its_default(folder):
    expected = [row for method in methods(folder) for row in rows(method)]
    for launcher in launchers(folder):
        options = launcher.describe()["options"].items()
        expected += [f"| `{name}` | {shown(option['default'])} | {option['help']} |" for name, option in options]
    assert [row for row in expected if row not in readme(folder)] == []


def test_the_readme_names_the_source(folder):
    text = " ".join(readme(folder).split())
    assert "Source: " in text or not methods(folder)
    for method in methods(folder):
        named = re.findall(r'"[^"]+"|arXiv:\d+\.\d+', method.describe()["source"])
        assert named, f"the docstring of {method.__name__} gives neither a title in quotes nor a number"
        assert [name for name in named if name not in text] == []


def test_every_preset_can_be_made_and_stands_in_the_readme(folder):
    for method in methods(folder):
        for preset in method.presets:
            assert method(preset=preset).options.preset == preset
            assert f"| `{preset}` |" in readme(folder)


def test_every_method_with_a_loss_is_in_a_group_by_what_it_compares_and_in_one_by_its_year(folder):
    for method in filter(has_loss, methods(folder)):
        named, year = set(method.groups), year_of(method.describe()["source"])
        assert len(named & {"logits", "relations", "maps"}) == 1, method.name
        assert year is not None, f"the source of {method.name} has no year"
        assert named & {"classic", "modern"} == {"classic" if year <= 2020 else "modern"}, method.name


def test_it_is_installed_with_everything_or_by_another_extra(folder):
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    extras = {extra for extra, needed in root.items() if folder.name in {Requirement(text).name for text in needed}}
    # a launcher brings a cluster's software along and a tracker its client, which few need: they are chosen by themselves
    own = {launcher.name for launcher in launchers(folder)}
    assert extras == own if own else extras in ([{"all"}] if methods(folder) else [{"all"}, {"trackers"}])


def test_its_methods_stand_in_the_table_of_the_first_page_and_in_the_catalogue(folder):
    for page in (ROOT / "README.md", ROOT / "docs" / "methods.md"):
        rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        assert [method.name for method in methods(folder) if not any(f"`{method.name}`" in row for row in rows)] == []


def test_what_it_imports_is_checked(folder):
    """By import-linter, which is told every package by name."""
    module = folder.name.replace("-", "_")
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = [each for each in linter["contracts"] if each["type"] == "forbidden"]
    assert module in linter["root_packages"]
    assert module in contract["source_modules"]

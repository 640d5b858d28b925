"""A page for every installed plugin, whoever wrote it: what its metadata and its class say, then its README."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from kdengine.cli.catalogue import markdown
from kdengine.plugins.discovery import discover
from kdengine_docs.files import write_changed
from kdengine_docs.links import Links, without_relative_links
from kdengine_docs.readme import Readme, readme_of

__all__ = ["Installed", "page_of_method", "page_of_plugin"]

FIRST_PARTY = "Every method of the first-party plugins, by category"
HERE = "Every method that is installed where this site was built, by category"
OPTIONS_HEAD = "| option | default | meaning |\n| --- | --- | --- |"


@dataclass(frozen=True)
class Installed:
    """What ``kdengine plugins --json`` says.

    Attributes:
        plugins: every installed plugin, with what it offers.
        methods: every method and composition, with its distribution.
        modules: by distribution, a module of it.
    """

    plugins: tuple[Mapping[str, Any], ...]
    methods: tuple[Mapping[str, Any], ...]
    modules: Mapping[str, str]

    @classmethod
    def read(cls) -> Installed:
        """Ask the command, which loads every plugin."""
        from kdengine.cli.plugins import command

        said = CliRunner().invoke(command, ["--json"], catch_exceptions=False)
        found = json.loads(said.stdout)
        return cls(tuple(found["plugins"]), tuple(found["methods"]), {one.distribution: one.target for one in discover()})

    @property
    def others(self) -> list[Mapping[str, Any]]:
        """Plugins without a method: of networks, observers, adapters, launchers."""
        return [one for one in self.plugins if one["status"] == "loaded" and not one["methods"] and not one["compositions"]]

    @property
    def pages(self) -> dict[str, str]:
        """By distribution, the page that shows its README; of several methods, that of the first."""
        pages = {one["distribution"]: f"plugins/{one['name']}.md" for one in reversed(self.methods)}
        return {one["distribution"]: f"plugins/{one['name']}.md" for one in reversed(self.others)} | pages

    def catalogue(self) -> str:
        """The page of all methods, each linked to its own."""
        text = markdown(self.methods).replace(FIRST_PARTY, HERE)
        for method in self.methods:
            name = method["name"]
            text = text.replace(f"\n| `{name}` |", f"\n| [`{name}`](plugins/{name}.md) |")
        return f"{text}\n{_toctree(method['name'] for method in self.methods)}"

    def write(self, folder: Path, links: Links) -> None:
        """Write all pages into a folder, and remove those of plugins that are gone; what has not changed stays as it is."""
        pages = {method["name"]: page_of_method(method, self._readme(method)) for method in self.methods}
        pages |= {plugin["name"]: page_of_plugin(plugin, self._readme(plugin)) for plugin in self.others}
        sources = {one["name"]: self._source(one) for one in (*self.methods, *self.others)}
        pages = {name: links.within_site(text, f"plugins/{name}", sources[name]) for name, text in pages.items()}
        pages["index"] = self._index()
        folder.mkdir(exist_ok=True)
        for file in folder.glob("*.md"):
            if file.stem not in pages:
                file.unlink()
        for name, text in pages.items():
            write_changed(folder / f"{name}.md", text)

    def _readme(self, one: Mapping[str, Any]) -> Readme | None:
        return readme_of(one["distribution"], self.modules.get(one["distribution"], ""))

    def _source(self, one: Mapping[str, Any]) -> str:
        """The file in the repository that the links of a README start from."""
        name = one["distribution"]
        return "zoo/README.md" if name == "kdzoo" else f"plugins/{name}/README.md"

    def _index(self) -> str:
        """All installed plugins, and the pages of those without a method."""
        rows = [
            f"| {_linked(one)} | {one['distribution']} {one['version']} | {_cell(one['reason'] or _offered(one))} |"
            for one in self.plugins
        ]
        table = "\n".join(["| plugin | package | offers |", "| --- | --- | --- |", *rows])
        head = "Every plugin that is installed where this site was built. `kdengine plugins` lists yours."
        return f"# Plugins\n\n{head}\n\n{table}\n\n{_toctree((one['name'] for one in self.others), '')}"


def page_of_method(method: Mapping[str, Any], readme: Readme | None) -> str:
    """The page of a method or of a composition.

    Args:
        method: as ``kdengine plugins --json`` describes it.
        readme: that of its distribution.
    """
    taps = " + ".join(method["methods"]) if "methods" in method else _codes(method["taps"])
    facts = {
        "category": method["category"],
        "groups": _codes(method["groups"]),
        "methods" if "methods" in method else "taps": taps,
        "needs": _codes(method["needs"]),
        "source": method["source"],
    }
    body = readme.text if readme else ""
    options = "" if "\n## Options" in f"\n{body}" else f"\n## Options\n\n{_options(method['options'])}\n"
    return _page(method, readme, method["summary"], facts, options)


def page_of_plugin(plugin: Mapping[str, Any], readme: Readme | None) -> str:
    """The page of a plugin without methods."""
    return _page(plugin, readme, "", {"offers": _offered(plugin)}, "")


def _page(one: Mapping[str, Any], readme: Readme | None, summary: str, facts: Mapping[str, str], options: str) -> str:
    name, package = one["name"], one["distribution"]
    title = readme.title.partition(": ")[2] if readme else ""
    facts = {**facts, "package": f"{_package(package)} {one['version']}", "install": f"`pip install {package}`"}
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items() if value]
    table = "\n".join(["| | |", "| --- | --- |", *rows])
    body = ""
    if readme:
        body = readme.text if readme.folder and _is_ours(package) else without_relative_links(readme.text)
    heading = f"# `{name}`: {title}" if title else f"# `{name}`"
    return "\n\n".join(part.strip() for part in (heading, summary, table, options, body) if part.strip()) + "\n"


def _is_ours(package: str) -> bool:
    return package == "kdzoo" or (Path(__file__).parents[2] / "plugins" / package).is_dir()


def _package(name: str) -> str:
    """The name of a distribution, linked to the home page that its metadata gives."""
    try:
        urls = dict(text.split(", ", 1) for text in metadata(name).get_all("Project-URL") or ())
    except PackageNotFoundError:
        return name
    home = urls.get("Homepage") or urls.get("Source") or urls.get("Repository")
    return f"[{name}]({home})" if home else name


def _options(options: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of options, in the form of the READMEs here."""
    rows = [f"| `{key}` | {_default(one['default'])} | {_cell(one['help'])} |" for key, one in options.items()]
    return "\n".join([OPTIONS_HEAD, *rows])


def _default(value: Any) -> str:
    return "none" if value in (None, "") else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _offered(plugin: Mapping[str, Any]) -> str:
    """What a plugin registers, of each kind that the command lists."""
    words = {"models": "networks"}
    kinds = [kind for kind, names in plugin.items() if isinstance(names, list | dict) and names]
    parts = [f"{words.get(kind, kind)}: {_codes(plugin[kind])}" for kind in kinds]
    return "; ".join(parts) or "hooks into runs"


def _linked(plugin: Mapping[str, Any]) -> str:
    names = [*plugin["methods"], *plugin["compositions"]]
    if plugin["status"] != "loaded":
        return f"`{plugin['name']}` ({plugin['status']})"
    return ", ".join(f"[`{name}`]({name}.md)" for name in names or [plugin["name"]])


def _toctree(names: Iterator[str], folder: str = "plugins/") -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *(f"{folder}{name}" for name in sorted(names)), "```", ""])


def _codes(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")

"""Whether a plugin satisfies the contract of its kind; nothing that it does ends the checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from kdengine.authoring.form import Advice, advice_on_package, advice_on_plugin
from kdengine.authoring.kinds import KINDS, PluginKind
from kdengine.authoring.own_tests import contracts_in
from kdengine.authoring.subject import Subject
from kdengine.errors import KDError, cause
from kdengine.plugins.discovery import Plugin
from kdengine.plugins.loader import PluginLoader, make_manager

__all__ = ["Check", "checks"]

OTHERS = ("compositions", "adapters", "models", "datasets", "recipes")
"""What a plugin may offer that is not checked here."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        subject: what was checked, such as ``method mean``.
        name: what should hold.
        status: ``warning`` is for what others would miss, but works.
        reason: why it is not so.
        error: what was raised, for its traceback.
        of_contract: whether it belongs to a contract.
    """

    subject: str
    name: str
    status: Literal["passed", "failed", "warning"] = "passed"
    reason: str = ""
    error: BaseException | None = None
    of_contract: bool = False

    def to_dict(self) -> dict[str, str]:
        """Convert to plain data."""
        return {"subject": self.subject, "check": self.name, "status": self.status, "reason": self.reason}


def checks(subject: Subject) -> Iterator[Check]:
    """Check all that a subject offers, and what its package says of it."""
    package, plugins = subject.package, []
    for given in subject.plugins:
        plugin, check = _loaded(given, subject.file)
        yield check
        if check.status == "passed":
            plugins.append(plugin)
            yield from _advised(check.subject, advice_on_plugin(plugin, package))
            yield from _contracts(plugin, package.folder if package else None)
    if package and not subject.plugins:
        reason = 'pyproject.toml has no [project.entry-points.kdengine] with a line NAME = "MODULE"'
        yield Check(f"package {package.name}", "has an entry point for kdengine", "failed", reason)
    if package:
        yield from _advised(f"package {package.name}", advice_on_package(package, plugins))


def _advised(subject: str, advice: Iterable[Advice]) -> Iterator[Check]:
    for name, reason in advice:
        yield Check(subject, name, "warning" if reason else "passed", reason)


def _loaded(plugin: Plugin, file: Path | None) -> tuple[Plugin, Check]:
    """The plugin, imported and registered, and how that went."""
    title, loader = f"plugin {plugin.name}", PluginLoader(make_manager())
    try:
        if file is not None:
            plugin = loader.load_file(file)
        else:
            loader.load_or_raise(plugin)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything
        return plugin, Check(title, "can be loaded", "failed", cause(error), error)
    if plugin.status == "incompatible":
        return plugin, Check(title, "can be loaded", "failed", plugin.reason)
    offers = any(kind.offered(plugin) for kind in KINDS.values()) or any(getattr(plugin, other) for other in OTHERS)
    if not offers:
        return plugin, Check(title, "offers something", "failed", "it registers nothing, and has no hook that observes runs")
    return plugin, Check(title, "can be loaded")


def _contracts(plugin: Plugin, folder: Path | None) -> Iterator[Check]:
    """The checks of the contracts of everything that a plugin offers, as the tests in the folder of its package set them up."""
    for kind in KINDS.values():
        for name, offered in kind.offered(plugin).items():
            for contract in contracts_in(folder, kind, name, offered):
                yield from _contract(kind, f"{kind.name} {name}", contract)


def _contract(kind: PluginKind, title: str, contract: type) -> Iterator[Check]:
    """The checks of one contract, each on an object of its own."""
    base = kind.contract_class
    for attribute in (name for name in dir(base) if name.startswith("test_")):
        name = attribute.removeprefix("test_").replace("_", " ")
        error = _raised(base, attribute, contract)
        if error is None:
            yield Check(title, name, of_contract=True)
        else:
            yield Check(title, name, "failed", _reason(error), error, of_contract=True)


def _raised(base: type, attribute: str, contract: type) -> BaseException | None:
    """What a check raises; a plugin's own version of a check is not asked."""
    check: Any = getattr(base, attribute)
    try:
        with TemporaryDirectory() as folder:
            check(contract(), **({"tmp_path": Path(folder)} if "tmp_path" in signature(check).parameters else {}))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything
        return error
    return None


def _reason(error: BaseException) -> str:
    """What an error says, on one line; of a check's own, no type."""
    if isinstance(error, AssertionError | KDError) and str(error).strip():
        return " ".join(str(error).split())
    return cause(error)

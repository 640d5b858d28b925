"""``kdengine plugins check``: whether a plugin satisfies the contract of its kind."""

from __future__ import annotations

import json
import logging
import traceback
from collections import Counter
from typing import TYPE_CHECKING

import click

from kdengine.cli.options import as_json
from kdengine.errors import counted

if TYPE_CHECKING:
    from kdengine.authoring.checks import Check

__all__ = ["command"]

FAILED = 1
"""Exit code if a check fails."""
BADGE = "![kdengine contract: passed](https://img.shields.io/badge/kdengine_contract-passed-brightgreen)"


@click.command("check")
@click.argument("path", metavar="PATH")
@as_json
@click.pass_context
def command(context: click.Context, path: str, as_json: bool) -> None:
    r"""Check a plugin: a Python file, the folder of a package, which need not be installed, or an installed plugin.

    Runs the contract of its kind, with the options of the package's own tests, and looks at README and metadata. Exits with
    status 1 if a check fails; warnings do not count. If all pass, prints a badge for the README.

    \b
    kdengine plugins check ./my_kd.py
    kdengine plugins check ./kdplugin-my-kd
    kdengine plugins check rkd
    """
    from kdengine.authoring.checks import checks
    from kdengine.authoring.subject import opened

    logging.getLogger("kdengine").addHandler(logging.NullHandler())  # the small runs of the checks have nothing to say
    done: list[Check] = []
    with opened(path) as subject:
        click.echo("" if as_json else f"{subject.title}\n", nl=False)
        for check in checks(subject):
            _print(check, new=not done or done[-1].subject != check.subject, as_json=as_json, debug=bool(context.obj))
            done.append(check)
    failed = any(check.status == "failed" for check in done)
    if as_json:
        facts = {"plugin": subject.title, "passed": not failed, "checks": [check.to_dict() for check in done]}
        click.echo(json.dumps({**facts, "badge": BADGE if _deserves_badge(done) else None}))
    else:
        _summarise(done, debug=bool(context.obj))
    if failed:
        raise click.exceptions.Exit(FAILED)


def _print(check: Check, new: bool, as_json: bool, debug: bool) -> None:
    """Print a check as soon as it is done; below the name of what is checked where that is new."""
    if debug and check.error is not None:
        click.echo("".join(traceback.format_exception(check.error)), err=True, nl=False)
    if as_json:
        return
    reason = f": {check.reason}" if check.reason else ""
    status = "FAILED" if check.status == "failed" else check.status
    click.echo(f"\n{check.subject}" if new else "", nl=new)
    click.echo(f"  {status:<7}  {check.name}{reason}")


def _summarise(done: list[Check], debug: bool) -> None:
    counts = Counter(check.status for check in done)
    warnings = f", {counted(counts['warning'], 'warning')}" if counts["warning"] else ""
    click.echo(f"\n{counts['passed']} passed, {counts['failed']} failed{warnings}")
    if _deserves_badge(done):
        click.echo(f"For the README:\n{BADGE}")
    elif not counts["failed"]:
        click.echo("No badge: nothing that it offers has a contract.")
    elif not debug and any(check.error is not None for check in done):
        click.echo("--debug shows where.")


def _deserves_badge(done: list[Check]) -> bool:
    """Whether a contract was checked, and nothing failed."""
    return any(check.of_contract for check in done) and all(check.status != "failed" for check in done)

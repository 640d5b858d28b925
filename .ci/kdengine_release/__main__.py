"""``PYTHONPATH=.ci python -m kdengine_release``: build all distributions, or give all of them a new version."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from kdengine_release.build import BuildError, build
from kdengine_release.packages import ROOT, packages
from kdengine_release.versions import VersionError, current, faults, parsed, write


@click.group()
def main() -> None:
    """Number and build the distributions of this repository."""


@main.command("build")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=ROOT / "dist", help="Folder for them: dist.")
def build_all(out: Path) -> None:
    """Build a wheel and a source distribution of every package."""
    found = packages()
    try:
        files = build(found, out)
    except BuildError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"== {len(files)} files of {len(found)} packages, version {current()}, are in {out}")


@main.command("version")
@click.argument("version")
@click.option("--date", type=click.DateTime(["%Y-%m-%d"]), help="Day of the release: today.")
def write_version(version: str, date: datetime.datetime | None) -> None:
    """Write VERSION into every package, the citation file and the changelog."""
    try:
        files = write(parsed(version), date.date() if date else datetime.date.today())
    except VersionError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{version} is in {len(files)} files. Read the diff, and run make test.")


@main.command("check")
@click.option("--tag", help="Of the release, as in v0.2.0.")
def check(tag: str | None) -> None:
    """Say where versions disagree; exit code 1 if they do."""
    if lines := faults(tag=tag):
        raise click.ClickException("Versions disagree:\n" + "\n".join(f"  {line}" for line in lines))
    click.echo(f"All packages have version {current()}.")


if __name__ == "__main__":
    main()

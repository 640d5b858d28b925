"""The wheels alone make an environment in which the quickstart runs: ``make test-wheels``.

The dependencies, gigabytes of them, are those that the tests run with: a folder of links shows them to a fresh environment,
without anything of ours. What is editable here is in that environment neither importable nor an installed distribution.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
from kdengine_docs.blocks import blocks_of, to_run

import kdengine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform == "win32", reason="the folders of an environment are others there, and links need a right"
    ),
]

OURS = ("kdengine", "kdzoo", "kdplugin")
EXTRAS = "all,ray,slurm,trackers"
INSTALLED = """
import importlib.metadata as metadata, importlib.util, json, sys

names = sys.argv[1:]
print(json.dumps({
    "modules": {name: getattr(importlib.util.find_spec(name.replace("-", "_")), "origin", None) for name in names},
    "distributions": {name: [str(one.locate_file("")) for one in metadata.distributions(name=name)] for name in names},
    "entry points": {point.name: str(point.dist.locate_file("")) for point in metadata.entry_points(group="kdengine")},
}))
"""


def links_to_dependencies(folder):
    """A folder that shows all that is installed here but for what is ours; ``.pth`` files, which add paths, are left out."""
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and not entry.name.lstrip("_").startswith((*OURS, "editable_impl")):
            (folder / entry.name).symlink_to(entry)
    return folder


class Installed:
    """A fresh virtual environment, and how programs are run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder], check=True)
        (self.site,) = self.folder.glob("lib/*/site-packages")
        (self.site / "dependencies.pth").write_text(f"{links_to_dependencies(folder / 'dependencies')}\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "KDENGINE_"))}
        path = f"{self.folder / 'bin'}{os.pathsep}{kept['PATH']}"
        self.environment = {**kept, "PATH": path, "KDENGINE_CACHE": str(folder / "cache"), "PIP_CONFIG_FILE": os.devnull}

    def run(self, *command, at):
        """Give what a command printed, which must succeed."""
        program, *rest = map(str, command)
        found = self.folder / "bin" / program  # subprocess would look for it on the path of this process
        done = subprocess.run([found, *rest], cwd=at, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The environment before anything of ours is installed."""
    return Installed(tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def nothing_of_ours(bare, ours, tmp_path_factory):
    """What is found of our packages in that environment."""
    return json.loads(bare.run("python", "-c", INSTALLED, *[one.name for one in ours], at=tmp_path_factory.mktemp("bare")))


@pytest.fixture(scope="module")
def installed(bare, nothing_of_ours, dist, tmp_path_factory):
    """The environment with all wheels, of which pip chooses by their metadata."""
    at = tmp_path_factory.mktemp("install")
    pip = ("python", "-m", "pip", "--no-input", "--disable-pip-version-check", "install", "--no-index", "--find-links", dist)
    bare.run(*pip, "--only-binary=:all:", f"kdengine[{EXTRAS}]", at=at)
    return bare


def test_the_dependencies_show_nothing_of_ours(nothing_of_ours, ours):
    names = [package.name for package in ours]
    assert nothing_of_ours["modules"] == dict.fromkeys(names)
    assert nothing_of_ours["distributions"] == {name: [] for name in names}
    assert nothing_of_ours["entry points"] == {}


def test_everything_of_ours_comes_from_the_wheels(installed, ours, tmp_path):
    found = json.loads(installed.run("python", "-c", INSTALLED, *[one.name for one in ours], at=tmp_path))
    site = installed.site
    assert found["modules"] == {one.name: str(site / one.module / "__init__.py") for one in ours}
    assert found["distributions"] == {one.name: [str(site)] for one in ours}
    declared = {name for one in ours for name in one.project.get("entry-points", {}).get("kdengine", {})}
    assert found["entry points"] == dict.fromkeys(declared, str(site))


def test_the_command_lists_every_plugin(installed, ours, tmp_path):
    assert installed.run("kdengine", "--version", at=tmp_path) == f"kdengine, version {kdengine.__version__}\n"
    plugins = json.loads(installed.run("kdengine", "plugins", "--json", at=tmp_path))["plugins"]
    assert {plugin["status"] for plugin in plugins} == {"loaded"}
    assert {plugin["distribution"] for plugin in plugins} == {one.name for one in ours[1:]}


def test_the_quickstart_runs_as_printed_in_an_empty_folder(installed, root, tmp_path):
    page = (root / "docs" / "quickstart.md").read_text(encoding="utf-8")
    for _, command in to_run(page):
        installed.run(*command.words, at=tmp_path)
    code = "\n".join(block.text for block in blocks_of(page) if block.language == "python")
    assert "| plain |" in installed.run("python", "-c", code, at=tmp_path)


def test_the_tests_of_a_source_distribution_pass_with_the_wheels(installed, dist, ours, tmp_path):
    tried = {"kdengine": ["tests/config", "tests/test_seeds.py"], "kdplugin-rkd": ["tests"], "kdzoo": ["tests/test_network.py"]}
    for package in (one for one in ours if one.name in tried):
        stem = f"{package.module}-{package.version}"
        with tarfile.open(dist / f"{stem}.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
        pytest_ = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib")
        # beside the tests lies the package's source, which nothing puts on the path
        printed = installed.run(*pytest_, *tried[package.name], at=tmp_path / stem)
        assert re.search(r"^\d+ passed(, \d+ warnings?)? in ", printed.splitlines()[-1])

"""One version for all packages, and the command that writes a new one."""

import datetime
import shutil
from collections import defaultdict

import pytest
from click.testing import CliRunner
from kdengine_release import versions
from kdengine_release.__main__ import main
from kdengine_release.packages import packages
from packaging.requirements import Requirement

import kdengine

DAY = datetime.date(2030, 2, 1)


@pytest.fixture
def copy(tmp_path, root, ours):
    """The files that have a version, in a repository of their own."""
    files = [*(package.file for package in ours), *(root / name for name in (versions.MODULE, "CITATION.cff", "CHANGELOG.md"))]
    for file in files:
        target = tmp_path / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return tmp_path


def texts(folder):
    return {file.relative_to(folder): file.read_text(encoding="utf-8") for file in folder.rglob("*") if file.is_file()}


def test_every_package_has_the_version_of_the_engine_and_requires_it_of_the_others(ours):
    """Mended by: PYTHONPATH=.ci python -m kdengine_release version X.Y.Z."""
    assert versions.faults() == []
    assert str(versions.current()) == kdengine.__version__
    assert len(ours) > 40
    assert len({package.name for package in ours}) == len(ours)


def test_every_package_requires_the_engine(ours):
    engine, *others = ours
    assert engine.name == "kdengine"
    needy = [
        package.name for package in others if not any(Requirement(text).name == "kdengine" for text in package.requirements)
    ]
    assert needy == []


def test_packages_agree_on_the_lowest_version_of_what_they_require(ours):
    bounds = defaultdict(set)
    for package in ours:
        for requirement in map(Requirement, [*package.requirements, *package.built_with]):
            if requirement.name != "kdengine" or not requirement.extras:
                bounds[requirement.name.lower()].add(str(requirement.specifier))
    assert {name: sorted(lowest) for name, lowest in bounds.items() if len(lowest) > 1} == {}
    assert [name for name, lowest in bounds.items() if not all(bound.startswith(">=") for bound in lowest)] == []


def test_a_new_version_is_written_everywhere_and_nothing_else_changes(copy):
    before = texts(copy)
    files = versions.write(versions.parsed("1.12.3"), DAY, copy)
    assert versions.faults(copy, tag="v1.12.3") == []
    after = texts(copy)
    assert {file.relative_to(copy) for file in files} == {file for file in before if before[file] != after[file]} == set(before)
    changelog = after.pop(versions.CHANGELOG)
    heading = "## [Unreleased]\n\n## [1.12.3] - 2030-02-01\n"
    assert changelog == before.pop(versions.CHANGELOG).replace("## [Unreleased]\n", heading)
    for file, text in after.items():
        old = before[file].splitlines()
        changed = [line for line in text.splitlines() if line not in old]
        assert len(text.splitlines()) == len(old)
        assert [line for line in changed if "1.12" not in line and "2030-02-01" not in line] == []
    (rkd,) = (package for package in packages(copy) if package.name == "kdplugin-rkd")
    assert "kdengine>=1.12" in rkd.requirements


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("zoo/pyproject.toml", 'version = "0.', 'version = "9.', "kdzoo: pyproject.toml: version 9."),
        (
            "plugins/kdplugin-st/pyproject.toml",
            '"kdengine>=',
            '"kdengine>=9.',
            "kdplugin-st: pyproject.toml: requires 'kdengine>=9.",
        ),
        ("pyproject.toml", '"kdplugin-st>=', '"kdplugin-st<', "kdengine: pyproject.toml: requires 'kdplugin-st<"),
        ("CITATION.cff", "version: 0.", "version: 9.", "CITATION.cff: version 9."),
    ],
)
def test_a_place_that_disagrees_is_named(file, old, new, fault, copy):
    text = (copy / file).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (copy / file).write_text(text.replace(old, new), encoding="utf-8")
    (found,) = versions.faults(copy)
    assert found.startswith(fault)


def test_a_tag_of_another_version_and_a_changelog_without_its_heading_are_named(copy):
    version = versions.current(copy)
    text = (copy / "CHANGELOG.md").read_text(encoding="utf-8")
    (copy / "CHANGELOG.md").write_text(text.replace(f"[{version}]", "[0.0.1]"), encoding="utf-8")
    assert versions.faults(copy, tag="v9.0.0") == [
        f"the tag v9.0.0 is not v{version}",
        f"CHANGELOG.md: no heading '## [{version}] - DATE'",
    ]


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("v0.2.0", "'v0.2.0' is no version of a release: write three numbers"),
        ("0.2", "'0.2' is no version of a release"),
        ("0.2.0rc1", "is no version of a release"),
        ("0.0.1", f"The version is {kdengine.__version__}; got 0.0.1. Name a higher one"),
        (kdengine.__version__, "Name a higher one"),
    ],
)
def test_a_version_that_cannot_be_released_is_refused(version, reason):
    said = CliRunner().invoke(main, ["version", version])
    assert said.exit_code == 2
    assert reason in said.output


def test_a_version_that_changes_nothing_is_refused_and_nothing_is_written(copy):
    heading = "## [Unreleased]\n"
    text = (copy / "CHANGELOG.md").read_text(encoding="utf-8")
    before, _, after = text.partition(heading)
    (copy / "CHANGELOG.md").write_text(f"{before}{heading}\n## {after.partition(chr(10) + '## ')[2]}", encoding="utf-8")
    untouched = texts(copy)
    with pytest.raises(versions.VersionError, match="has nothing under '## \\[Unreleased\\]'"):
        versions.write(versions.parsed("9.0.0"), DAY, copy)
    assert texts(copy) == untouched


def test_the_check_of_the_command_says_what_a_release_lacks(ours):
    said = CliRunner().invoke(main, ["check"])
    assert (said.exit_code, said.output) == (0, f"All packages have version {kdengine.__version__}.\n")
    said = CliRunner().invoke(main, ["check", "--tag", "v9.9.9"])
    assert said.exit_code == 1
    assert "the tag v9.9.9 is not v" in said.output

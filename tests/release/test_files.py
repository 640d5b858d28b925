"""The files of the release that nothing here can run: what can be known of them without Docker and without GitHub."""

import json
import re
import shlex
import subprocess

import pytest
import yaml


@pytest.fixture(scope="module")
def steps(root):
    """The instructions of the Dockerfile, continued lines joined: pairs of name and arguments."""
    text = re.sub(r"^#.*\n", "", (root / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [tuple(line.split(maxsplit=1)) for line in text.replace("\\\n", "").splitlines() if line]


def copied(steps):
    """What is copied from the repository."""
    for name, arguments in steps:
        if name == "COPY" and not arguments.startswith("--from="):
            yield from arguments.split()[:-1]


def test_every_path_that_the_image_copies_exists_and_nothing_else_is_sent_to_docker(steps, root):
    sources = list(copied(steps))
    assert [source for source in sources if not (root / source).exists()] == []
    everything, *others = [
        line for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    assert everything == "*"
    assert {line[1:] for line in others if line.startswith("!")} == set(sources)
    assert {line for line in others if not line.startswith("!")} == {"**/__pycache__", "**/tests"}


def test_the_image_has_all_that_the_packages_are_built_from(steps, ours, root):
    sources = set(copied(steps))
    for package in ours:
        wheel = package.declared["tool"]["hatch"]["build"]["targets"]["wheel"]
        files = [package.project["readme"], *package.project["license-files"], *wheel["packages"], "pyproject.toml"]
        tops = {(package.folder / file).relative_to(root).parts[0] for file in files}
        assert tops <= sources, package.name
        assert all((package.folder / file).exists() for file in files), package.name
    (loop,) = (arguments for name, arguments in steps if name == "RUN" and "uv build" in arguments)
    patterns = re.search(r"for package in (.*?);", loop)[1].split()
    matched = {folder.resolve() for pattern in patterns for folder in ([root] if pattern == "." else root.glob(pattern))}
    assert matched == {package.folder for package in ours}


def test_the_image_runs_the_command_and_not_as_root(steps, ours):
    last = steps[max(index for index, (name, _) in enumerate(steps) if name == "FROM") :]
    names = [name for name, _ in last]
    settings = dict(last)
    assert json.loads(settings["ENTRYPOINT"]) == list(ours[0].project["scripts"])
    assert settings["USER"] == "kdengine"
    assert names.index("RUN") < names.index("USER") < names.index("ENTRYPOINT")
    assert "RUN" not in names[names.index("USER") :]
    assert dict(step for step in steps if step[0] == "ARG")["ARG"] == "EXTRAS=all"


def test_its_commands_are_shell(steps):
    for name, arguments in steps:
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", arguments], check=True)


@pytest.mark.slow
def test_its_constraints_name_every_wheel(steps, dist, ours, tmp_path, quiet):
    (tmp_path / "dist").symlink_to(dist)
    commands = next(arguments for name, arguments in steps if "ours.txt" in arguments)
    quiet("sh", "-c", commands.partition("uv venv")[0], cwd=tmp_path)
    lines = dict(line.split(" @ file:///source/") for line in (tmp_path / "ours.txt").read_text().splitlines())
    assert lines.keys() == {package.module for package in ours}
    assert [file for file in lines.values() if not (tmp_path / file).is_file()] == []


WORKFLOWS = ("ci", "release")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_what_there_is(name, root):
    text = (root / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    targets = set(re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    steps = [step for job in jobs.values() for step in job["steps"]]
    lines = [line for step in steps for line in step.get("run", "").splitlines() if line.startswith("make ")]
    made = {word for line in lines for word in shlex.split(line, comments=True)[1:]}
    assert made
    assert made <= targets
    used = [step["uses"] for step in steps if "uses" in step]
    assert [action for action in used if action.startswith("./") and not (root / action).is_dir()] == []
    needed = {job["needs"] for job in jobs.values() if "needs" in job}
    assert needed <= jobs.keys()


def test_only_the_upload_has_the_right_to_upload(root):
    jobs = yaml.safe_load((root / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
    rights = {name: job.get("permissions", {}) for name, job in jobs.items()}
    assert rights == {"build": {}, "upload": {"id-token": "write"}, "page": {"contents": "write"}}
    assert jobs["upload"]["needs"] == "build"


@pytest.mark.parametrize(
    "name", ["Dockerfile", "Makefile", "docs/releasing.md", "docs/installation.md", ".github/workflows/release.yml"]
)
def test_no_index_is_named_by_its_host(name, root):
    hosts = re.findall(r"(?<![\w.-])(?:[a-z0-9-]+\.)+(?:org|io|com|net|dev)\b", (root / name).read_text(encoding="utf-8"))
    assert set(hosts) <= {"github.com", "pytorch.org", "semver.org"}

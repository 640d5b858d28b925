"""Every command that a page tells readers to run is run: the quick ones always, the others in little.

Those of the quickstart are run as printed, with the packages that are built: tests/release/test_wheels.py.

A block with ``<!-- not run: REASON -->`` above it is not run, nor is one with ``<!-- output of: COMMAND -->``, whose
numbers were measured; but their options exist all the same.
"""

import ast
import importlib
import itertools
import os
import re
import shutil
import textwrap
from pathlib import Path

import click
import pytest
from kdengine_docs.blocks import blocks_of, to_run
from PIL import Image

from kdengine.cli.main import COMMANDS, cli, main
from kdengine.config.catalogue import every_setting

ROOT = Path(__file__).parents[2]
MADE = ("_build", "plugins")
"""Folders of docs/ that are made, and not of the repository."""
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.relative_to(ROOT / "docs").parts[0] not in MADE),
]
GUIDES = [page for page in PAGES if page.parent == ROOT / "docs" or page.name == "README.md"]
"""Pages that tell readers what to run; those of results have the commands that made their figures."""
TRAINING = ("run", "train", "compare", "sweep", "teach")
FLAGS = ("--dry-run", "--resume", "--help")
STAND_INS = {
    "digits": "digits@train=64@test=32",
    "cifar100": "digits@train=64@test=32",
    "digit-scenes": "digit-scenes@train=48@test=24",
    "digit-scenes@target=masks": "digit-scenes@target=masks@train=48@test=24",
    "digit-scenes@size=32": "digit-scenes@size=32@train=48@test=24",
    "digit-scenes@target=masks@size=32": "digit-scenes@target=masks@size=32@train=48@test=24",
}
"""Data in place of what is large or would be downloaded."""


def by_name(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.relative_to(ROOT).as_posix())


def page_blocks(page):
    return blocks_of(page.read_text(encoding="utf-8"))


def runnable(page):
    """The commands of ours on a page that nothing marks, with the line of their block."""
    return to_run(page.read_text(encoding="utf-8"))


def quick(command):
    """Whether it needs nothing and trains nothing."""
    name, rest = command.words[1], command.words[2:]
    needs = any(word.startswith(("~", "runs/", "./", "$")) or "folder:" in word or ":~" in word for word in rest)
    looks = name in ("settings", "plugins", "models", "inspect", "--version") or (name == "data" and not rest)
    return not needs and (looks or (name == "run" and "--dry-run" in rest))


@by_name(PAGES)
def test_every_option_in_a_command_exists(page):
    known = {entry.name.removeprefix("teacher_") for entry in every_setting()}
    for block in page_blocks(page):
        for command in block.commands:
            if command.assigned or command.words[0] != "kdengine" or command.words[1] not in COMMANDS:
                continue
            words = list(itertools.takewhile(lambda word: word != "&", (word for word in command.words[2:] if word != "...")))
            found = cli.get_command(click.Context(cli), command.words[1])
            options, _, _ = found.make_parser(click.Context(found)).parse_args(words)
            set_there = [text.partition("=")[0].removeprefix("teacher_") for text in options.get("assignments", ())]
            unknown = [
                name for name in set_there if name.startswith(("train.", "input.", "student_input.")) and name not in known
            ]
            assert unknown == [], f"line {block.line}"


@by_name(GUIDES)
def test_every_shell_block_is_run_or_says_why_not(page):
    for line, command in runnable(page):
        measures = command.words[0] == "python" and command.words[1].startswith("benchmarks/")
        assert measures or command.assigned or command.words[0] == "kdengine", f"line {line}: mark the block 'not run: REASON'"
        if measures:
            assert (ROOT / command.words[1]).is_file()


@by_name(GUIDES)
def test_what_a_command_printed_is_marked_as_its_output(page):
    printed = [block for block in page_blocks(page) if block.printed and not block.output_of and not block.not_run]
    assert [block.line for block in printed] == []


@by_name(PAGES)
def test_python_is_python_and_imports_what_exists(page):
    for block in page_blocks(page):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(block.text))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "kdengine":
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@by_name([page for page in GUIDES if any(quick(command) for _, command in runnable(page) if command.words[0] == "kdengine")])
def test_commands_that_only_look_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line, command in runnable(page):
        if command.words[0] == "kdengine" and quick(command):
            assert main(command.words[1:]) == 0, f"line {line}: {' '.join(command.words)}"


def in_little(words):
    """A command that takes seconds: few images, one epoch."""
    words = [STAND_INS.get(word, word) for word in words]
    if words[0] not in TRAINING or any(word in FLAGS for word in words) or any(word.endswith(".toml") for word in words):
        return words
    trials = ("--trials", "1") if "--trials" in words else ()
    return [*words, "--epochs", "1", *trials, *(() if "--data" in words else ("--data", STAND_INS["digits"]))]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder in which a reader works, who has images, masks and a table of them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["data", "--example", "all"]) == 0
    for kind in sorted((tmp_path / "all").iterdir()):
        for number, file in enumerate(sorted(kind.iterdir())[:12]):
            for copy in (f"flowers/{kind.name}", "photos", "more-photos", "scans"):
                (tmp_path / copy).mkdir(parents=True, exist_ok=True)
                Image.open(file).convert("RGB").save(tmp_path / copy / f"{kind.name}-{number}.jpg")
    shutil.rmtree(tmp_path / "all")
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    rows = [f"flowers/{file.parent.name}/{file.name},{file.parent.name}" for file in sorted((tmp_path / "flowers").glob("*/*"))]
    (tmp_path / "flowers.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    for number in range(10):
        for part, mode in (("images", "RGB"), ("masks", "L")):
            (tmp_path / "streets" / part).mkdir(parents=True, exist_ok=True)
            Image.new(mode, (32, 32), number % 2).save(tmp_path / "streets" / part / f"{number}.png")
    return tmp_path


@pytest.mark.slow
@by_name([page for page in GUIDES if page.name != "quickstart.md" and runnable(page)])
def test_the_commands_of_a_page_run_in_little_and_in_order(page, home, monkeypatch):
    for block in page_blocks(page):
        name = re.match(r"# (\w+\.py)\n", block.text)
        if block.language == "python" and name:
            (home / name[1]).write_text(block.text)
    for line, command in runnable(page):
        words = [os.path.expandvars(word) for word in command.words]
        if command.assigned:
            monkeypatch.setenv(command.assigned, words[0])
        elif words[0] == "kdengine":
            assert main(in_little(words[1:])) == 0, f"line {line}: {' '.join(command.words)}"

"""Every ``>>>`` in a docstring or a page gives what stands below it."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT, ROOT / "zoo" / "src", *sorted(ROOT.glob("plugins/*/src")))


def files():
    """Files with an example, with the folder from which each is imported."""
    for source in SOURCES:
        for file in sorted((source / "kdengine" if source == ROOT else source).rglob("*.py")):
            if ">>> " in file.read_text(encoding="utf-8"):
                yield source, file


MODULES = [".".join(file.relative_to(source).with_suffix("").parts) for source, file in files()]
PAGES = [page for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) if "\n>>> " in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page(page):
    found = doctest.testfile(str(page), module_relative=False, encoding="utf-8", optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


def test_some_are_found_and_a_wrong_one_fails(tmp_path, capsys):
    assert len(MODULES) >= 5
    page = tmp_path / "wrong.md"
    page.write_text(">>> 1 + 1\n3\n")
    assert doctest.testfile(str(page), module_relative=False).failed == 1

"""Every ``>>>`` in a docstring or a page gives what stands below it."""

import doctest
import importlib
import re
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


def run(text, name):
    """Run the blocks ``pycon`` of a page in order, in one session; gives how many examples failed, and how many there were."""
    code = "\n".join(re.findall(r"^```pycon\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    runner = doctest.DocTestRunner()
    runner.run(doctest.DocTestParser().get_doctest(code, {}, name, name, 0))
    return runner.failures, runner.tries


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page(page):
    text = page.read_text(encoding="utf-8")
    failures, tries = run(text, page.name)
    assert failures == 0
    assert tries == text.count("\n>>> ")


def test_some_are_found_and_a_wrong_one_fails():
    assert len(MODULES) >= 5
    assert PAGES != []
    assert run("```pycon\n>>> 1 + 1\n3\n```\n", "wrong.md") == (1, 1)

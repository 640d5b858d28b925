"""The Sphinx extension of this site: pages of plugins, tables of settings and help of commands are made while it is built."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdengine_docs.commands import commands_page
from kdengine_docs.contents import with_every_page
from kdengine_docs.files import write_changed
from kdengine_docs.links import Links
from kdengine_docs.notebooks import FOLDER, as_page
from kdengine_docs.plugins import Installed
from kdengine_docs.settings import settings_tables

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["setup"]

REPOSITORY = Path(__file__).parents[2]
FILE = re.compile(r"<!-- text of: (\S+) -->")
"""What a page writes in place of a file of the repository, which has the page's title itself."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what happens before the pages are read, and while each is."""
    app.connect("builder-inited", write_pages)
    # before napoleon, which would take what stands before a colon in the text of an attribute for its type
    app.connect("autodoc-process-docstring", protect_colon, priority=100)
    app.connect("source-read", change_source)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write a page for every installed plugin and every notebook; git ignores both."""
    installed = _installed()
    installed.write(Path(app.srcdir) / "plugins", Links(REPOSITORY, installed.pages))
    for script in FOLDER.glob("*.py"):
        write_changed(script.with_suffix(".md"), as_page(script))


def change_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Fill in what a page leaves to the build, and make its links into the repository links within the site."""
    installed = _installed()
    text, origin = source[0], None
    if file := FILE.search(text):
        text, origin = (REPOSITORY / file[1]).read_text(encoding="utf-8"), file[1]
    if page == "methods":
        text = installed.catalogue()
    if page == "index":
        text = with_every_page(text, app.env.found_docs)
    text = text.replace("<!-- tables of settings -->", settings_tables()) if "tables of settings" in text else text
    text = text.replace("<!-- help of commands -->", commands_page()) if "help of commands" in text else text
    source[0] = Links(REPOSITORY, installed.pages).within_site(text, page, origin)


@cache
def _installed() -> Installed:
    """What is installed, asked once a build."""
    return Installed.read()


def protect_colon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Begin the text of an attribute with an empty comment."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]

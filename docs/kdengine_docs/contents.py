"""The contents of the site: a page that the home page does not name is added to it, so that none is ever lost."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["named_in", "with_every_page"]

TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def named_in(text: str) -> set[str]:
    """The pages in all tables of contents of a page."""
    lines = (line.strip() for body in TOCTREE.findall(text) for line in body.splitlines())
    entries = (line for line in lines if line and not line.startswith(":"))
    return {re.sub(r".*<(.*)>", r"\1", entry) for entry in entries}


def with_every_page(text: str, pages: Iterable[str]) -> str:
    """The home page with one more table of contents, of pages beside it that no other names."""
    missing = sorted(page for page in pages if "/" not in page and page != "index" and page not in named_in(text))
    if not missing:
        return text
    return "\n".join([text, "```{toctree}", ":hidden:", ":caption: More", "", *missing, "```", ""])

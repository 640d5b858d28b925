"""Figures as inline SVG: no separate file, no fonts, colours that follow the colour scheme of the page."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING

from kdengine.report.palette import SHADES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["to_svg"]

NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def to_svg(figure: Figure, name: str, description: str) -> str:
    """An ``<svg>`` element as wide as its container; text stays text, and the same figure gives the same characters.

    Args:
        figure: the figure.
        name: prefix of all ids in it, unique among the figures of the page.
        description: what it shows, for screen readers.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kdengine"}):
        figure.savefig(file, format="svg", transparent=True, metadata=NO_METADATA)
    text = file.getvalue()
    inner = text[text.index(">", text.index("<svg")) + 1 :].strip()
    inner = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", inner, count=1, flags=re.DOTALL
    )  # it would style the whole page
    inner = re.sub(r"font-family: [^;\"]*", "font-family: inherit", inner)
    inner = re.sub(r"[\n ]*\n\s*", "\n", inner)
    width, height = (float(number) for number in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0])
    head = f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}">'
    return head + _coloured(_named(inner, name))


def _named(text: str, name: str) -> str:
    """Ids and the references to them with a prefix, because ids must be unique in a page."""
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    return re.sub(r'xlink:href="#', f'href="#{name}-', text)


def _coloured(text: str) -> str:
    """Every colour of the palette replaced by its variable in the style sheet of the page."""
    for shade in SHADES:
        text = re.sub(rf"((?:fill|stroke): ){shade.light}", rf"\1var(--{shade.name})", text, flags=re.IGNORECASE)
    return text

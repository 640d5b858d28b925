"""Links of Markdown pages, which work on GitHub as they stand, made into links that work within the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["Links", "outside_code", "without_relative_links"]

GITHUB = "https://github.com/kdengine/kdengine"
IN_REPOSITORY = re.compile(rf"{re.escape(GITHUB)}/(?:blob|tree)/main/(?P<path>[^#]*)")
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s#]*)(?P<anchor>#[^()\s]*)?\)")
CODE = re.compile(r"(^[ ]*(?P<fence>```+|~~~+).*?^[ ]*(?P=fence)[ ]*$)", flags=re.MULTILINE | re.DOTALL)
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files at the top of the repository that have a page on the site."""


class Links:
    """Where the files of the repository stand on the site.

    Args:
        root: the repository.
        readmes: by the name of a package, its page: ``{"kdplugin-rkd": "plugins/rkd.md"}``.
    """

    def __init__(self, root: Path, readmes: Mapping[str, str]) -> None:
        self.root, self.readmes = root, readmes

    def within_site(self, text: str, page: str, source: str | None = None) -> str:
        """The text of a page, its links changed.

        Args:
            text: Markdown.
            page: the page's name on the site: ``results/methods``.
            source: the file in the repository that the links of the text start from; by default the page's own.
        """
        source = source or f"docs/{page}.md"

        def changed(link: re.Match[str]) -> str:
            target, anchor = link["target"], link["anchor"] or ""
            if not target:
                return link[0]
            inside = IN_REPOSITORY.fullmatch(target)
            if inside:
                path = inside["path"]
            elif re.match(r"[a-z]+:", target) or link["image"]:
                return link[0]
            else:
                path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
            return f"{link['image']}[{link['text']}]({self._target(path.rstrip('/'), page)}{anchor})"

        return outside_code(text, lambda prose: LINK.sub(changed, prose))

    def _target(self, path: str, page: str) -> str:
        """What a link to a file of the repository says on a page: a page of the site, or the file on GitHub."""
        place = self._page_of(path)
        if place is None:
            kind = "tree" if (self.root / path).is_dir() else "blob"
            return f"{GITHUB}/{kind}/main/{path}"
        return posixpath.relpath(place, posixpath.dirname(page) or ".")

    def _page_of(self, path: str) -> str | None:
        if path in PAGES:
            return PAGES[path]
        if path.startswith("docs/") and path.endswith(".md"):
            return path.removeprefix("docs/")
        package = re.fullmatch(r"(?:plugins/)?([\w-]+)(?:/README\.md)?", path)
        name = {"zoo": "kdzoo"}.get(package[1], package[1]) if package else ""
        return self.readmes.get(name)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with everything changed but its fenced blocks of code."""
    parts, end = [], 0
    for block in CODE.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])


def without_relative_links(text: str) -> str:
    """A README from elsewhere, whose relative links lead nowhere on this site: only their texts are kept."""

    def changed(link: re.Match[str]) -> str:
        absolute = re.match(r"[a-z]+:", link["target"]) or (not link["target"] and not link["image"])
        return link[0] if absolute else link["text"]

    return outside_code(text, lambda prose: LINK.sub(changed, prose))

"""Who writes a plugin."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parseaddr

from kdengine.errors import PluginError

__all__ = ["Author", "toml_string"]


@dataclass(frozen=True)
class Author:
    """Name and address of an author.

    Attributes:
        name: for the licence and the metadata.
        email: for the metadata; empty if not given.
    """

    name: str
    email: str = ""

    @classmethod
    def of(cls, text: str | None, package: str) -> Author:
        """The author from ``NAME`` or ``NAME <EMAIL>``; by default the one that git knows, else the package's authors.

        Raises:
            PluginError: the text has no name.
        """
        if text is None:
            return cls(_known_to_git() or f"the authors of {package}")
        name, email = parseaddr(text) if "<" in text else (text.strip(), "")
        if not name or not name.isprintable() or not email.isprintable():
            raise PluginError(
                f"--author '{text}' has no name. Write --author 'Ada Lovelace', or 'Ada Lovelace <ada@example.org>'."
            )
        return cls(name, email)

    def to_toml(self) -> str:
        """An inline table, as ``authors`` in ``pyproject.toml`` has it."""
        email = f", email = {toml_string(self.email)}" if self.email else ""
        return f"{{ name = {toml_string(self.name)}{email} }}"


def toml_string(text: str) -> str:
    """A text as a string of TOML, in quotes."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _known_to_git() -> str:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "config", "user.name"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        name = done.stdout.strip()
        return name if name.isprintable() else ""
    return ""

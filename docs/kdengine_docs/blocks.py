"""The blocks of code in a page, and the commands in them, so that tests can run what a page tells readers to run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Block", "Command", "blocks_of", "to_run"]

FENCE = re.compile(
    r"^(?P<space> *)(?P<fence>```+)(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^(?P=space)(?P=fence) *$", re.MULTILINE | re.DOTALL
)
INDENTED = re.compile(r"(?:(?<=\n\n)|(?<=-->\n))(?:    [^\n]*\n)(?:(?:    [^\n]*)?\n)*")
MARK = re.compile(r"<!-- (?P<kind>output of|not run): (?P<text>[^\n]*?) -->\n+\Z")
SHELL = ("console", "shell", "bash", "")


@dataclass(frozen=True)
class Command:
    """A line of a shell.

    Attributes:
        words: as a shell splits them, without comments; variables and ``~`` are not replaced.
        assigned: the name of a variable that the line sets, in place of a command.
    """

    words: tuple[str, ...]
    assigned: str = ""

    @property
    def elided(self) -> bool:
        """Whether the line leaves something to the reader."""
        return any("..." in word for word in self.words)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: as the page says; empty for an indented block.
        text: what it holds.
        line: the line of the page on which it begins, from 1.
        output_of: the command that printed it, where ``<!-- output of: COMMAND -->`` stands above it.
        not_run: the reason in ``<!-- not run: REASON -->`` above it.
    """

    language: str
    text: str
    line: int
    output_of: str = ""
    not_run: str = ""

    @property
    def lines(self) -> list[str]:
        """What a reader types into a shell, a line continued by a backslash as one; empty for other languages."""
        if self.language not in SHELL:
            return []
        joined = re.sub(r"\\\n\s*(?:> )?\s*", " ", self.text)
        prompt = "kdengine " if not self.language else "$ "
        typed = (line.strip() for line in joined.splitlines())
        return [line.removeprefix("$ ") for line in typed if line.startswith(prompt)]

    @property
    def commands(self) -> list[Command]:
        """The lines, split."""
        return [command for line in self.lines for command in _split(line)]

    @property
    def printed(self) -> bool:
        """Whether it shows what a command printed, besides the commands."""
        joined = re.sub(r"\\\n", " ", self.text)
        lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
        return self.language == "console" and any(not line.startswith(("$ ", "> ")) for line in lines)


def blocks_of(text: str) -> list[Block]:
    """All blocks of a page in Markdown, in order."""
    found = [(match.start(), _fenced(text, match)) for match in FENCE.finditer(text)]
    blank = FENCE.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), text)
    found += [(match.start(), _indented(text, match)) for match in INDENTED.finditer(blank)]
    return [block for _, block in sorted(found, key=lambda one: one[0])]


def to_run(text: str) -> list[tuple[int, Command]]:
    """The commands of a page that nothing marks and that leave nothing to the reader, each with the line of its block."""
    blocks = [block for block in blocks_of(text) if not block.not_run and not block.output_of]
    return [(block.line, command) for block in blocks for command in block.commands if not command.elided]


def _fenced(text: str, match: re.Match[str]) -> Block:
    return _block(text, match.start(), match["language"], match["body"])


def _indented(text: str, match: re.Match[str]) -> Block:
    body = "\n".join(line.removeprefix("    ") for line in text[match.start() : match.end()].splitlines())
    return _block(text, match.start(), "", body)


def _block(text: str, start: int, language: str, body: str) -> Block:
    mark = MARK.search(text[:start])
    marks = {"output of": "output_of", "not run": "not_run"}
    given = {marks[mark["kind"]]: mark["text"]} if mark else {}
    return Block(language, body, text.count("\n", 0, start) + 1, **given)


def _split(line: str) -> Iterator[Command]:
    """The commands of a line: several where ``&&`` joins them."""
    words = shlex.split(line, comments=True)
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        part, words = words[:end], words[end + 1 :]
        variable = re.fullmatch(r"([A-Z_]+)=(.*)", part[0])
        if variable and len(part) == 1:
            yield Command((variable[2],), variable[1])
        elif variable:  # a variable for this command alone
            yield Command(tuple(part[1:]))
        else:
            yield Command(tuple(part))

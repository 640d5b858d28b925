"""The help of every command."""

from __future__ import annotations

import click

from kdengine.cli.main import COMMANDS, cli

__all__ = ["commands_page"]


def commands_page() -> str:
    """A heading and the text of ``kdengine COMMAND --help`` for each, 100 characters wide."""
    root = click.Context(cli, info_name="kdengine", terminal_width=100, max_content_width=100)
    return "\n\n".join(_section(root, name) for name in COMMANDS)


def _section(root: click.Context, name: str) -> str:
    command = cli.get_command(root, name)
    assert command is not None
    context = click.Context(command, root, name, terminal_width=100, max_content_width=100)
    return f"## kdengine {name}\n\n```text\n{command.get_help(context).strip()}\n```"

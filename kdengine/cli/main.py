"""The ``kdengine`` command, its exit codes, and its commands, each imported only when it is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from kdengine import __version__
from kdengine.errors import KDError

__all__ = ["cli", "main"]

USER_ERROR, OUR_ERROR, INTERRUPTED = 2, 1, 130
COMMANDS = ("run", "train", "inspect", "plugins", "models", "data", "evaluate", "report")


class LazyGroup(click.Group):
    """A group whose commands live in modules of their names; unknown ones are asked of the plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = import_module(f"kdengine.cli.{cmd_name}").command
            return command
        return self._from_plugins(ctx, cmd_name)

    def _from_plugins(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from kdengine.registry import Registry

        registry = Registry()
        registry.load_all()
        registry.manager.hook.kdengine_commands(cli=self)
        return super().get_command(ctx, cmd_name)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="kdengine")
def cli() -> None:
    """Distil any PyTorch network into any other, with any method.

    \b
    kdengine run --plugin kdplugin-rkd --teacher timm:resnet32 --student resnet8
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 the user's mistake, 130 interrupted, 1 our fault."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        cli.main(arguments, prog_name="kdengine", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return USER_ERROR
    except KDError as error:
        _say(error, "--json" in arguments)
        return USER_ERROR
    return 0


def _say(error: KDError, as_json: bool) -> None:
    """The error as one paragraph on standard error; as JSON on standard output too where that was asked for."""
    click.echo(f"kdengine: {error}", err=True)
    if as_json:
        click.echo(json.dumps({"error": str(error), "kind": type(error).__name__}))

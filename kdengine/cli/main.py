"""The ``kdengine`` command: its exit codes, and its subcommands, each imported only when it is used."""

from __future__ import annotations

import errno
import io
import json
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from kdengine._version import __version__
from kdengine.cli.blame import is_from_user_code
from kdengine.errors import KDError
from kdengine.training.signals import Stopped

__all__ = ["cli", "main"]

USER_ERROR, INTERRUPTED = 2, 130
DEBUG = "--debug"
OF_THE_USER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOSPC)
"""Errors of files and disks that can occur anywhere and that only the user can fix."""
TRAINING = ("run", "train", "compare", "sweep", "teach")
LOOKING = ("inspect", "plugins", "models", "data", "settings")
AFTERWARDS = ("evaluate", "report", "export", "predict", "benchmark", "push")
AUTHORING = ("new-plugin",)
COMMANDS = (*TRAINING, *LOOKING, *AFTERWARDS, *AUTHORING)


class LazyGroup(click.Group):
    """A group whose commands are modules of the same names; plugins may add further ones.

    The object of its context says whether ``--debug`` was given.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = import_module(f"kdengine.cli.{cmd_name.replace('-', '_')}").command
            return with_line_breaks(command)
        return self._from_plugins(ctx, cmd_name)

    def _from_plugins(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from kdengine.plugins.registry import Registry

        Registry().add_commands(self)
        return super().get_command(ctx, cmd_name)


def with_line_breaks(command: click.Command) -> click.Command:
    r"""Let ``\b`` in a raw docstring keep the line breaks of a paragraph, as click does for a real backspace."""
    command.help = command.help and command.help.replace(r"\b", "\b")
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        with_line_breaks(inner)
    return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="kdengine")
@click.option(DEBUG, is_flag=True, expose_value=False, help="Show the traceback of an error; also after the command.")
def cli() -> None:
    r"""Distil any PyTorch network into any other, with any method.

    \b
    kdengine run --plugin kdplugin-rkd --teacher timm:resnet32 --student resnet8
    """


with_line_breaks(cli)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; a bug is raised.

    0: done; 1: a check failed; 2: an error of the user; 130: interrupted.
    """
    _print_whatever_it_is()
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = [argument for argument in given if argument != DEBUG]
    debug = len(arguments) < len(given)
    try:
        code = cli.main(arguments, prog_name="kdengine", standalone_mode=False, obj=debug)
    except (KeyboardInterrupt, click.Abort) as error:
        if not isinstance(error.__cause__, Stopped):  # else the observers of the run have reported it
            click.echo("kdengine: interrupted", err=True)
        _print_as_json("interrupted", KeyboardInterrupt(), arguments)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        _print_as_json(error.format_message(), error, arguments)
        return USER_ERROR
    except KDError as error:
        return _refused(str(error), error, arguments, debug)
    except OSError as error:
        if error.errno not in OF_THE_USER:
            raise
        return _refused(f"{error.strerror}: '{error.filename}'.", error, arguments, debug)
    return code if isinstance(code, int) else 0


def _print_whatever_it_is() -> None:
    """Let characters that standard output cannot show, such as those of class names, be escaped rather than an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _refused(text: str, error: Exception, arguments: Sequence[str], debug: bool) -> int:
    """Report an error of the user in one paragraph, with its notes; with ``--debug``, its traceback before that."""
    text = " ".join([text, *(f"({note})" for note in getattr(error, "__notes__", ()))])
    if debug:
        traceback.print_exception(error)
    elif is_from_user_code(error):
        text += f" ({DEBUG} shows where.)"
    click.echo(f"kdengine: {text}", err=True)
    _print_as_json(text, error, arguments)
    return USER_ERROR


def _print_as_json(text: str, error: BaseException, arguments: Sequence[str]) -> None:
    """With ``--json``, print an error as JSON on standard output too."""
    if "--json" in arguments:
        click.echo(json.dumps({"error": text, "kind": type(error).__name__}))

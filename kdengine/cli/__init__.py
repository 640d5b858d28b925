"""The command line: one file a command; arguments in, engine called, tables out."""

from kdengine.cli.main import main

__all__ = ["main"]

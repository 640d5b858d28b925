"""The command line: one file per command; it parses arguments, calls the engine and prints tables."""

from kdengine.cli.main import main

__all__ = ["main"]

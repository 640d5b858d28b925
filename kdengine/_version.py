"""The version of kdengine."""

__version__ = "0.1.0"

"""The version of kdengine, and that of the contract with plugins."""

__version__ = "0.1.0"

API = 1
"""Version of the contract with plugins: raised when a plugin written for the one before would no longer work."""

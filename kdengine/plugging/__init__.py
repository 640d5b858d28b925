"""Plugins: found, loaded, called, chosen."""

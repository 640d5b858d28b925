"""Plugins: found through entry points, loaded when they are needed, and told what happens."""

"""Plugins: discovered through entry points, loaded on demand, and notified through hooks."""

"""The tables of all settings, from the settings models."""

from __future__ import annotations

from kdengine.config.catalogue import every_setting, to_markdown

__all__ = ["settings_tables"]


def settings_tables() -> str:
    """What ``kdengine settings --markdown`` prints."""
    return to_markdown(every_setting())

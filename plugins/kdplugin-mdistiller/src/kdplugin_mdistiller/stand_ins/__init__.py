"""Modules in place of ``_base`` and ``_common``, for a file that has none beside it."""

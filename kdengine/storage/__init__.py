"""The files of a run: written atomically, locked, and read back."""

"""What a run leaves behind: written whole, locked, and read again."""

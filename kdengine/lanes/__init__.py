"""A student in training: its stages, its losses, its optimizer, and what was measured of it."""

"""Tasks: what a student is for, its loss against the targets and its metrics."""

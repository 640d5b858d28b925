"""Comparisons over several processes and machines: units of work, what a worker does with one, and who keeps account."""

"""Runs: planning, training, resuming and re-evaluating them."""

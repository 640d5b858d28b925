"""Runs: put together, trained, resumed, measured again and compared."""

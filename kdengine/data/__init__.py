"""Data: read, batched, checked, and handed to runs."""

"""Settings, specs of networks and data, and what of them may be trusted."""

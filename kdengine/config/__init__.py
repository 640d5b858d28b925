"""Settings, specs of networks and data, and the check that they run no untrusted code."""

"""Reports on runs: tables, curves and pages, read from run folders alone."""

"""What becomes of runs afterwards: tables, curves and pages, read from their folders alone."""

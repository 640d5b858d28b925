"""What becomes of a trained student: exported files, predictions, benchmarks."""

"""Sources of training data, one per file."""

"""Data pipeline: sources, fetching, stages, storage, builds and inspection of training data."""

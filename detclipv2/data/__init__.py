"""Data loading: from WebDataset shards to batches of one supervision type."""

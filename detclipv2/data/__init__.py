"""From WebDataset shards to batches of one supervision type."""

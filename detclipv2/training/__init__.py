"""The training loop and what it needs; knows nothing of the cluster that runs it."""

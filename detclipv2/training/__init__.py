"""Training loop; it knows nothing of the cluster that runs it."""

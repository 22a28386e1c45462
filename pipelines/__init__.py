"""The data half of the street: sources, stages, storage, the runner and the asset graph that orders them."""

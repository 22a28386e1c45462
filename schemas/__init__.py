"""Schemas of what packages exchange: Arrow tables, the manifest, the training sample. Imports nothing else of this project."""

"""Data sources, one small file each."""

"""Box coding and assignment."""

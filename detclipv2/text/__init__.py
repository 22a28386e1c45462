"""Texts: concept dictionary, enrichment, encoders' weights and cache."""

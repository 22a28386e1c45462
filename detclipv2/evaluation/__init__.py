"""Metrics of a trained detector."""

"""Evaluation metrics of a trained detector."""

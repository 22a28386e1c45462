"""Inspection of built data: verify, contact sheets, the funnel, garbage collection."""

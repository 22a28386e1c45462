"""Losses of section 3 of arXiv:2304.04514."""

"""Operators of our own, each tested against a library's."""

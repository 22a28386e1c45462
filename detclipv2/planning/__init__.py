"""Estimates of a training before it starts: steps, floating-point operations, memory, hours."""

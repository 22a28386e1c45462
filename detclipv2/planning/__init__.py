"""What a training will take, reckoned before it starts: steps, floating-point operations, memory, hours."""

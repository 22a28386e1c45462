"""What a person submits: thin scripts, the recipes, tracking."""

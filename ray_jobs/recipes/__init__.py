"""Complete run configurations: a recipe is a function that returns one; an ablation is ``dataclasses.replace`` of it."""

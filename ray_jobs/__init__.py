"""Ray jobs: the scripts that a person submits, their recipes, and MLflow tracking."""

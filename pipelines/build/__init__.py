"""Dataset builds: the asset table, the jobs that it wants, the runner, the plan, the checks and the Dagster graph."""

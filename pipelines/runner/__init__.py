"""Runs jobs: decides which are due and why, runs those through Ray Data or in this process, publishes their tables."""

from pipelines.runner.runner import AssetRun, Runner, Where

__all__ = ["AssetRun", "Runner", "Where"]

"""Evaluation through a running service: a run's plan, its folder, its submissions, its results and its comparisons."""

"""Measures the quality and cost of policies: metrics, bootstrap intervals, runs on simulation and service."""

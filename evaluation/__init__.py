"""Measures what a policy is worth: metrics, bootstrap intervals, and runs through the service."""

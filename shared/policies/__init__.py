"""Routing policies: pure, total, deterministic functions of an observation. One family a module."""

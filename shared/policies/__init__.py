"""Routing policies: pure, total, deterministic functions of an observation. One module per family."""

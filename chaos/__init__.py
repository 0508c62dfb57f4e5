"""Repeats the bad days of the service on real processes, checks invariants, and measures what they cost."""

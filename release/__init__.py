"""Checks a release before it is published. Not in the wheel."""

"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Read a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number

"""Arguments that the benchmarks share."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def positive(text: str) -> int:
    """Parse a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def interpreter(text: str) -> Path:
    """Parse the name of an interpreter that has vLLM; return its absolute path."""
    if (found := shutil.which(text)) is None:
        raise argparse.ArgumentTypeError(f"{text} is not a program; make bench-engines installs one and passes it")
    return Path(found).absolute()

"""Memory of the process' container, as its control group (version 2) counts it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/sys/fs/cgroup")
"""A container sees its own group here."""


def used_bytes(folder: Path = FOLDER) -> float:
    """Read the memory that counts towards the limit, as Kubernetes does; NaN outside of a container.

    File pages that were not used lately are left out: the kernel drops them before it kills a process.
    """
    try:
        used = int((folder / "memory.current").read_text(encoding="utf-8"))
        droppable = re.search(
            r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(encoding="utf-8"), re.MULTILINE
        )
    except OSError:
        return math.nan
    return used - int(droppable[1]) if droppable else used


def limit_bytes(folder: Path = FOLDER) -> float:
    """Read the limit at which the kernel kills a process; infinite if there is none."""
    try:
        limit = (folder / "memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return math.inf
    return math.inf if limit == "max" else int(limit)

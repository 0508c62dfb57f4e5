"""State files of trainings, from which they resume."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from stack.whole_files import write_whole


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state.

    Raises:
        CannotWrite: It cannot be written; the old one stays intact.
    """
    content = BytesIO()
    torch.save(state, content)
    write_whole(path, content.getvalue())

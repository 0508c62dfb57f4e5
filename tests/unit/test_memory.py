"""The memory of a container, as its control group counts it."""

from __future__ import annotations

import math
from pathlib import Path

from shared.observe.memory import limit_bytes, used_bytes


def group(folder: Path, limit: str) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("5000\n")
    (folder / "memory.stat").write_text("anon 3000\ninactive_anon 0\nactive_file 500\ninactive_file 1200\n")
    return folder


def test_file_pages_that_the_kernel_drops_first_do_not_count(tmp_path: Path) -> None:
    assert used_bytes(group(tmp_path, "8000")) == 3800


def test_a_container_has_the_limit_of_its_group(tmp_path: Path) -> None:
    assert limit_bytes(group(tmp_path, "8000")) == 8000
    assert limit_bytes(group(tmp_path, "max")) == math.inf


def test_outside_of_a_container_use_is_unknown_and_nothing_limits_it(tmp_path: Path) -> None:
    assert math.isnan(used_bytes(tmp_path))
    assert limit_bytes(tmp_path) == math.inf

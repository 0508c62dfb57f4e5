"""What the repository states about itself: its folder, pyproject.toml and tracked files."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAME: str = PYPROJECT["project"]["name"]
CLIENT_FOLDER = ROOT / "client"
CLIENT_PYPROJECT: dict[str, Any] = tomllib.loads((CLIENT_FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
CLIENT: str = CLIENT_PYPROJECT["project"]["name"]
"""Name of the Python client, which is built and published beside the service."""
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]


class ReleaseRefused(Exception):
    """A check of the release failed."""


def tracked_files() -> list[str]:
    """List the files of the release by their paths in the repository: those that git tracks, as they are now.

    Raises:
        ReleaseRefused: git is not installed, or refuses to read the repository, for example that of another user.
    """
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise ReleaseRefused("git is not installed, and knows which files belong to the release.") from None
    except subprocess.CalledProcessError as error:
        raise ReleaseRefused(f"git cannot list the files: {os.fsdecode(error.stderr).strip()}") from None
    return [name for name in os.fsdecode(listed).split("\0") if name and (ROOT / name).is_file()]


def included_extras(extra: str) -> Iterator[str]:
    """List an extra and the extras that it includes."""
    yield extra
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == NAME:
            for included in requirement.extras:
                yield from included_extras(included)

"""Reads the lock files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from release.project import CLIENT, NAME, REQUIREMENTS

DEVELOPMENT = "dev"
"""The one lock file whose libraries do not run in the service."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One entry of a lock file."""

    name: str
    version: str
    marker: str
    """Where the entry applies, as an environment marker; empty for everywhere."""
    hashes: tuple[str, ...]
    """SHA-256 of the files of this version."""
    required_by: frozenset[str]
    """Names of the libraries that require it; the project's own name if the project does."""


def lock_files() -> list[Path]:
    """List the lock files."""
    return sorted(REQUIREMENTS.glob("*.lock"))


def read_lock(path: Path) -> list[Pin]:
    """Read the entries of a lock file. A library has several where platforms differ."""
    # What follows a blank line names the packages that a lock leaves out.
    entries = re.split(r"\n(?=[a-zA-Z0-9])", path.read_text(encoding="utf-8").partition("\n\n")[0])
    return [_pin(entry) for entry in entries if not entry.startswith("#")]


def locked_names() -> dict[str, bool]:
    """Return the name of every locked library, and whether it runs in the service."""
    found: dict[str, bool] = {}
    for path in lock_files():
        for pin in read_lock(path):
            found[pin.name] = found.get(pin.name, False) or path.stem != DEVELOPMENT
    return dict(sorted(found.items()))


def _pin(entry: str) -> Pin:
    requirement = Requirement(entry.partition(" \\")[0])
    [version] = requirement.specifier
    comment = entry.partition("# via")[2]
    # "-c" names a constraint file. The project is listed with its file in parentheses.
    required_by = {name.strip() for name in re.sub(r"\(.*?\)|-c \S+", "", comment).replace("#", "").splitlines()}
    if CLIENT in required_by:  # It is this project's, too, and no lock holds it.
        required_by = required_by - {CLIENT} | {NAME}
    return Pin(
        name=requirement.name,
        version=version.version,
        marker=str(requirement.marker or ""),
        hashes=tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)),
        required_by=frozenset(required_by - {""}) or frozenset({NAME}),
    )

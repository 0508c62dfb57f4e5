"""What compose files and the Dockerfile say, read by the programs that they are written for."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
BIN = Path(sys.executable).parent

COMPOSE_FILES = {
    "cpu": ("compose.yaml",),
    "gpu": ("compose.yaml", "compose.gpu.yaml"),
    "large-api": ("compose.yaml", "compose.gpu.yaml", "compose.large-api.yaml"),
    "cpu with large-api": ("compose.yaml", "compose.large-api.yaml"),
}
"""Every combination of compose files that the documentation names."""

LARGE_API = {"LARGE_URL": "https://api.example/v1", "LARGE_MODEL": "large", "LARGE_API_KEY_FILE": "./key"}


@functools.cache
def services(combination: str) -> dict[str, dict[str, Any]]:
    """Let Docker Compose combine files, with every profile, and return their services."""
    files = [part for file in COMPOSE_FILES[combination] for part in ("-f", file)]
    profiles = ["--profile", "*"]
    done = subprocess.run(
        [BIN / "docker-compose", *files, *profiles, "config", "--format", "json"],
        cwd=ROOT,
        env={**os.environ, **LARGE_API},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return found


@functools.cache
def instructions() -> list[tuple[str, str]]:
    """Split the Dockerfile into instructions and their arguments, without comments and line ends."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


@functools.cache
def copied(stage: str) -> frozenset[str]:
    """List what a stage copies from the checkout, itself or through the stages that it is made of."""
    found: set[str] = set()
    current = ""
    for name, rest in instructions():
        if name == "FROM":
            base, _, current = rest.partition(" AS ")
            if current == stage and not base.startswith("$") and base != "scratch":
                found |= copied(base)
        elif name == "COPY" and current == stage:
            if origin := re.match(r"--from=(\S+) ", rest):
                found |= copied(origin[1])
            else:
                found |= {each.rstrip("/") for each in rest.split()[:-1]}
    return frozenset(found)

"""A separate compose project, from the images that this checkout builds."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from stack.client import Api

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "trim-test"
PATIENCE_S = 600.0

Found = TypeVar("Found")


class Project:
    """Runs commands of Docker Compose on one project."""

    def __init__(self, compose: str) -> None:
        self._compose = shlex.split(compose)

    def run(self, *arguments: str, files: tuple[str, ...] = ("compose.yaml",), status: int | None = 0) -> str:
        """Run a command, and return its output; `status` is the exit status that it must have."""
        named = [part for file in files for part in ("-f", file)]
        done = subprocess.run(
            [*self._compose, "-p", NAME, *named, *arguments],
            check=False,
            cwd=ROOT,
            env={**os.environ, "API_PORT": "0"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert status is None or done.returncode == status, f"{shlex.join(arguments)}:\n{done.stdout}"
        return done.stdout

    def containers(self, service: str) -> list[dict[str, Any]]:
        """List the containers of a service, as `docker compose ps` does."""
        lines = self.run("ps", "--all", "--format", "json", service).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def is_healthy(self, services: Mapping[str, int]) -> bool:
        """Tell whether services have as many healthy containers as named, and no others."""
        return all(
            [each["Health"] for each in self.containers(service)] == ["healthy"] * count
            for service, count in services.items()
        )

    def api(self) -> Api:
        """Return a client of the api, at the port that it has now."""
        return Api(f"http://{self.run('port', 'api', '8080').strip().splitlines()[-1]}")

    def crash(self, service: str) -> None:
        """Kill the role in one container of a service, from inside, as if it had broken down."""
        self.run("exec", "-T", service, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")


def until(look: Callable[[], Found], patience_s: float = PATIENCE_S) -> Found:
    """Look again and again until something is found, and return it."""
    give_up = time.monotonic() + patience_s
    while not (found := look()):
        assert time.monotonic() < give_up, "not in time"
        time.sleep(1)
    return found

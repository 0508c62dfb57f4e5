"""The roles as child processes: started, watched, stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.backoff import RECONNECT
from shared.errors import TrimError
from shared.process import EXIT_USAGE

ROLES: Mapping[str, Sequence[str]] = {
    "api": ["-m", "services.api"],
    "orchestrator": ["-m", "services.orchestrator"],
    "small": ["-m", "services.generator", "small"],
    "prm": ["-m", "services.prm"],
    "large": ["-m", "services.generator", "large"],
}
"""How each role is started."""


def node_name(role: str) -> str:
    """Name the process of a role."""
    return f"{role}-0"


STOP_TIMEOUT_S = 40.0
"""Longer than a worker's grace; whoever has not ended by then is killed."""


class RoleEnded(TrimError):
    """A process of the stack ended by itself; its log says why."""

    code = "role_ended"


SOON_S = 10.0
"""A role that ends sooner after its start than this is about to end again."""

MAX_SOON = 5
"""How often in a row a role may end soon before it is given up."""


@dataclass(frozen=True, slots=True)
class Child:
    """One running role."""

    role: str
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int
    """Bytes that the log held before: of earlier runs."""
    started: float
    """On the monotonic clock."""

    def close(self) -> None:
        """Let go of an ended process's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()


class Roles:
    """Runs roles until the block ends, each with a log file of its own."""

    def __init__(
        self,
        environment: Mapping[str, str],
        logs: Path,
        *,
        roles: Mapping[str, Sequence[str]] = ROLES,
        interpreters: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare.

        Args:
            environment: Settings for every role, on top of this process's own.
            logs: Folder for the log files.
            roles: Which roles to start, and how: arguments for Python.
            interpreters: The Python of roles that need another environment than this process's.
        """
        self._environment = {**os.environ, **environment, "TRIM_ENDS_WITH_PARENT": "1"}
        self.logs = logs
        self._roles = roles
        self._interpreters = interpreters or {}
        self._children: dict[str, Child] = {}
        self._soon: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Start all roles."""
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            for role in self._roles:
                self.start(role)
        except BaseException:
            self._stop()  # Ctrl-C while they start: nobody else would stop those that run already.
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all roles."""
        self._stop()

    def _stop(self) -> None:
        """Stop all roles: politely first, and wait for them."""
        for child in self._children.values():
            child.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + STOP_TIMEOUT_S
        for child in self._children.values():
            try:
                child.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill(child.role)
            child.close()

    def start(self, role: str) -> Child:
        """Start a role, or start it again after it was killed."""
        path = self.logs / f"{role}.log"
        with path.open("ab") as log:
            log_start = log.tell()
            process = subprocess.Popen(
                [self._interpreters.get(role, sys.executable), *self._roles[role]],
                env={**self._environment, "TRIM_NODE_NAME": node_name(role)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches this process alone, which then stops the roles in order.
                start_new_session=True,
            )
        child = Child(role, process, path, log_start, time.monotonic())
        self._children[role] = child
        return child

    def stop(self, role: str, *, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Tell a role to stop, as a rollout does, and wait for it; return its exit status.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        child = self._children[role]
        child.process.send_signal(signal.SIGTERM)
        status = child.process.wait(timeout_s)
        child.close()
        return status

    def kill(self, role: str) -> None:
        """Kill a role on the spot, as a crash would."""
        child = self._children[role]
        child.process.kill()
        child.process.wait()
        child.close()

    def pids(self) -> dict[str, int]:
        """List the process id of each role."""
        return {role: child.process.pid for role, child in self._children.items()}

    def check(self) -> None:
        """Check that every role still runs.

        Raises:
            RoleEnded: One has ended; the message holds the end of its log.
        """
        for child in self._children.values():
            if (status := child.process.poll()) is not None:
                raise _ended(child, status)

    def mend(self) -> list[str]:
        """Start roles again that have ended; return what to tell of it, a sentence each.

        Raises:
            RoleEnded: One was started with wrong settings, or ends again and again.
        """
        told = []
        for child in list(self._children.values()):
            if (status := child.process.poll()) is None:
                continue
            is_soon = time.monotonic() - child.started < SOON_S
            self._soon[child.role] = self._soon[child.role] + 1 if is_soon else 0
            if status == EXIT_USAGE or self._soon[child.role] > MAX_SOON:
                raise _ended(child, status)
            child.close()
            time.sleep(RECONNECT.delay_s(self._soon[child.role]))
            self.start(child.role)
            told.append(f"{child.role} ended with status {status} and was started again; its log is {child.log}.")
        return told


def _ended(child: Child, status: int) -> RoleEnded:
    said = child.log.read_bytes()[child.log_start :].decode(errors="replace")
    lines = "\n  ".join(said.splitlines()[-5:])
    return RoleEnded(f"{child.role} ended with status {status}; the end of {child.log}:\n  {lines}")

"""Runs the roles as child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, assert_never

from shared.backoff import RECONNECT
from shared.domain.roles import WorkerRole
from shared.errors import TrimError
from shared.process import EXIT_USAGE
from stack.interrupts import wait_until
from stack.logs import bound, open_log, tail

STOP_TIMEOUT_S = 40.0
"""Seconds that roles have to stop before they are killed; longer than a worker's grace."""

TELL_AFTER_S = 1.0
"""Seconds after which a stop tells what it waits for."""

SOON_S = 10.0
"""A role that ends within this many seconds of its start is likely to end again."""

MAX_SOON = 5
"""Number of times in a row that a role may end soon after its start before the stack gives up."""


def _worker_arguments(role: WorkerRole) -> Sequence[str]:
    match role:
        case WorkerRole.SMALL | WorkerRole.LARGE:
            return ["-m", "services.generator", role.value]
        case WorkerRole.PRM:
            return ["-m", "services.prm"]
        case _:
            assert_never(role)


ROLES: Mapping[str, Sequence[str]] = {
    "api": ["-m", "services.api"],
    "orchestrator": ["-m", "services.orchestrator"],
    **{role.value: _worker_arguments(role) for role in WorkerRole},
}
"""Arguments for Python that start each role."""


class RoleEnded(TrimError):
    """A process of the stack ended unexpectedly; see its log."""

    code = "role_ended"


def node_name(role: str) -> str:
    """Return the name of a role's process."""
    return f"{role}-0"


@dataclass(frozen=True, slots=True)
class Child:
    """One running role."""

    role: str
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int
    """Size of the log before this run, in bytes."""
    started: float
    """Start of the process, on the monotonic clock."""

    def close(self) -> None:
        """Close the standard input of an ended process."""
        assert self.process.stdin is not None
        self.process.stdin.close()


class Roles:
    """Runs roles for the duration of a block, each with its own log file."""

    def __init__(
        self,
        environment: Mapping[str, str],
        logs: Path,
        *,
        roles: Mapping[str, Sequence[str]] = ROLES,
        interpreters: Mapping[str, str] | None = None,
        check_servers: Callable[[], None] = lambda: None,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Prepare the roles; nothing starts yet.

        Args:
            environment: Variables that every role gets in addition to those of this process.
            logs: Folder of the log files.
            roles: Arguments for Python that start each role.
            interpreters: Python interpreters of the roles that do not use the one of this process.
            check_servers: Raises if a server has ended that the roles cannot do without.
            tell: Receives sentences about a stop that takes its time.
        """
        given = {**environment, "TRIM_ENDS_WITH_PARENT": "1"}
        # A role refuses a setting that comes both as a value and from a file.
        files = {f"{name}_FILE" for name in (*given, "TRIM_NODE_NAME")}
        inherited = {name: value for name, value in os.environ.items() if name not in files}
        self._environment = {**inherited, **given}
        self.logs = logs
        self._roles = roles
        self._interpreters = interpreters or {}
        self._check_servers = check_servers
        self._tell = tell
        self._children: dict[str, Child] = {}
        self._soon: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Start all roles."""
        try:
            for role in self._roles:
                self.start(role)
        except BaseException:
            self._stop()  # `__exit__` is not called for a Ctrl-C in here.
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all roles."""
        is_interrupted = kind is KeyboardInterrupt
        if is_interrupted:
            self._tell("Stopping; press Ctrl-C again to end at once")
        self._stop(tells=is_interrupted)

    def _stop(self, *, tells: bool = False) -> None:
        """Send SIGTERM to all roles, wait for them, and kill those that are late, or all after a second Ctrl-C.

        Args:
            tells: Whether to tell what the stop waits for. At an ordinary end, nobody asked for one.
        """
        children = list(self._children.values())
        for child in children:
            child.process.send_signal(signal.SIGTERM)
            child.process.send_signal(signal.SIGCONT)  # Someone may have stopped it with SIGSTOP.

        def have_ended() -> bool:
            return not _running(children)

        if not wait_until(have_ended, timeout_s=TELL_AFTER_S, is_patient=False):
            if tells:
                names = ", ".join(child.role for child in _running(children))
                self._tell(f"Waiting for {names} to finish their calls, {STOP_TIMEOUT_S:.0f} s at most")
            wait_until(have_ended, timeout_s=STOP_TIMEOUT_S - TELL_AFTER_S, is_patient=False)
        for child in _running(children):
            self.kill(child.role)
        for child in children:
            child.close()

    def start(self, role: str) -> Child:
        """Start or restart a role."""
        path = self.logs / f"{role}.log"
        with open_log(path) as log:
            log_start = log.tell()
            process = subprocess.Popen(
                [self._interpreters.get(role, sys.executable), *self._roles[role]],
                env=self._variables(role),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches only this process, which then stops the roles.
                start_new_session=True,
            )
        child = Child(role, process, path, log_start, time.monotonic())
        self._children[role] = child
        return child

    def _variables(self, role: str) -> dict[str, str]:
        """List a role's variables; the first role gets the port of TRIM_METRICS_PORT, the others those after it."""
        variables = {**self._environment, "TRIM_NODE_NAME": node_name(role)}
        first_port = self._environment.get("TRIM_METRICS_PORT", "")
        if first_port.isdecimal() and first_port != "0":
            variables["TRIM_METRICS_PORT"] = str(int(first_port) + list(self._roles).index(role))
        return variables

    def stop(self, role: str, *, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Stop a role with SIGTERM, as a rollout does, and return its exit status.

        Raises:
            subprocess.TimeoutExpired: It still runs after the time-out.
        """
        child = self._children[role]
        child.process.send_signal(signal.SIGTERM)
        status = child.process.wait(timeout_s)
        child.close()
        return status

    def kill(self, role: str) -> None:
        """Kill a role, as a crash would."""
        child = self._children[role]
        child.process.kill()
        child.process.wait()
        child.close()

    def last_line(self, role: str) -> str:
        """Return the last line that a role has logged since its start."""
        child = self._children[role]
        return tail(child.log, start=child.log_start, lines=1).strip()

    def pids(self) -> dict[str, int]:
        """List the process id of each role."""
        return {role: child.process.pid for role, child in self._children.items()}

    def check(self) -> None:
        """Check that every role runs, and bound the logs.

        Raises:
            RoleEnded: A role has ended; the message holds the end of its log.
        """
        self._check_servers()
        for child in self._children.values():
            bound(child.log)
            if (status := child.process.poll()) is not None:
                raise _ended(child, status)

    def mend(self) -> list[str]:
        """Restart roles that have ended, and return one sentence about each; bound the logs.

        Raises:
            RoleEnded: A role has wrong settings, or keeps ending soon after its start.
        """
        self._check_servers()
        reports = []
        for child in list(self._children.values()):
            bound(child.log)
            if (status := child.process.poll()) is None:
                continue
            is_soon = time.monotonic() - child.started < SOON_S
            self._soon[child.role] = self._soon[child.role] + 1 if is_soon else 0
            if status == EXIT_USAGE or self._soon[child.role] > MAX_SOON:
                raise _ended(child, status)
            child.close()
            time.sleep(RECONNECT.delay_s(self._soon[child.role]))
            self.start(child.role)
            reports.append(f"{child.role} ended with status {status} and was restarted; its log is {child.log}.")
        return reports


def _running(children: Sequence[Child]) -> list[Child]:
    return [child for child in children if child.process.poll() is None]


def _ended(child: Child, status: int) -> RoleEnded:
    end = tail(child.log, start=child.log_start)
    return RoleEnded(f"{child.role} ended with status {status}; the end of {child.log}:{end}")

"""The service under scripted loads: it runs them and reads what each cost."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psutil
from uuid_utils.compat import uuid7

from bench.capacity.loads import Load
from bench.counters import read_when_still
from bench.design import TIMEOUT_S, NotSolved
from bench.service import POLICY, Service, make_problem
from bench.tap import Tap
from shared.bus.connection import connect
from shared.domain.options import Limits, Options
from shared.errors import PermanentError
from stack.roles import ROLES

KIND_OF = {"orchestrator": "orchestrator", "small": "worker", "prm": "worker", "large": "worker", "api": "api"}
"""Kind of process of each role."""

MAX_TOKENS = 100_000
"""Maximum number of tokens of a solution, so that no load ends early."""


class ServersElsewhere(PermanentError):
    """Postgres and RabbitMQ must run on this machine, or their CPU time cannot be read."""

    code = "servers_elsewhere"


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of a run, by kind."""

    count: Mapping[str, int]
    size: Mapping[str, int]
    """Bytes of their bodies."""
    text: Mapping[str, int]
    """Bytes of the texts in them: question, prefix, and drafts."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a load cost."""

    steps: int
    seconds: float
    """From submission to the last end, on the database's clock."""
    elapsed_s: float
    """Time between the two readings of CPU time."""
    fastest_s: float
    """From submission to the last end of the fastest wave."""
    cpu_s: Mapping[str, float]
    """CPU seconds by role and server."""
    transactions: int
    """Transactions of events that accepted a step or took a decision."""
    wal_bytes: int
    """Write-ahead log of the whole database server."""

    @property
    def steps_per_s(self) -> float:
        """Steps accepted per second."""
        return self.steps / self.seconds


@dataclass(frozen=True, slots=True)
class Observed:
    """What was observed while a load ran."""

    run: Run
    waiting: float
    """Mean number of database sessions that waited for a lock."""
    other_cores: float
    """CPU cores that processes outside the benchmark used."""


_WAITING_FOR_LOCKS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def roles_of(**numbers: int) -> dict[str, Sequence[str]]:
    """Number the processes of each role: `orchestrator`, `orchestrator-1`, and so on."""
    return {
        role if number == 0 else f"{role}-{number}": ROLES[role]
        for role, count in numbers.items()
        for number in range(count)
    }


class Rig(Service):
    """A running service that solves loads."""

    load: Load

    def submit(self, count: int, *, lookahead: int) -> None:
        """Submit problems of the current load, in one transaction."""
        options = Options(
            plan=POLICY.plan,
            lookahead=lookahead,
            limits=Limits(max_steps=self.steps, max_tokens=MAX_TOKENS),
        )
        questions = map(self.load.question, range(count))
        self.insert([make_problem(uuid7(), options, question=question) for question in questions])

    def cpu_seconds(self) -> dict[str, float]:
        """Read the CPU time of the roles' processes and of both servers.

        Raises:
            ServersElsewhere: The CPU time of a server cannot be read.
        """
        seconds = super().cpu_seconds()
        if not {"postgres", "rabbitmq"} <= set(seconds):
            raise ServersElsewhere
        return seconds

    # --- whole runs ------------------------------------------------------------------------------------------------

    def run(self, load: Load) -> Run:
        """Solve a load; read its duration and its cost.

        Raises:
            NotSolved: The problems were not solved in time, or with a wrong number of steps.
        """
        self._take(load)
        began, started, before, wal = self._now(), time.monotonic(), self.cpu_seconds(), self._wal()
        waves = [self.solve(load.in_flight, lookahead=load.lookahead) for _ in range(load.waves)]
        after, elapsed_s = self.cpu_seconds(), time.monotonic() - started
        return Run(
            steps=load.problems * load.steps,
            seconds=sum(waves),
            elapsed_s=elapsed_s,
            fastest_s=min(waves),
            cpu_s=by_role({name: after[name] - before[name] for name in after}),
            transactions=self._transactions(began),
            wal_bytes=self._wal() - wal,
        )

    def count_messages(self, load: Load, problems: int) -> Messages:
        """Solve problems of a load and collect all messages that concern one; the cost of this run does not count."""
        self._take(load)
        with Tap(self.settings, self.bindings()) as tap:
            self.solve(problems, lookahead=load.lookahead)
            read_when_still(tap.count)
            bodies = tap.drain()
        count, size, text = Counter[str](), Counter[str](), Counter[str]()
        for body in bodies:
            message = json.loads(body)
            if "problem_id" in message:
                count[message["kind"]] += 1
                size[message["kind"]] += len(body)
                text[message["kind"]] += _text_bytes(message)
        return Messages(count, size, text)

    def start(self, load: Load, *, warm_up_s: float) -> None:
        """Submit all problems of a load at once, and let the pipeline fill."""
        self._take(load)
        self.submit(load.problems, lookahead=load.lookahead)
        self._sleep(warm_up_s)

    def observe(self, seconds: float) -> Observed:
        """Observe the running load for some seconds.

        Raises:
            NotSolved: The load has ended.
        """
        before, machine, wal = self.cpu_seconds(), machine_cpu_s(), self._wal()
        began, started = self._now(), time.monotonic()
        waiting: list[int] = []
        while not waiting or time.monotonic() < started + seconds:
            waiting.append(int(self.read(_WAITING_FOR_LOCKS)))
            self._sleep(0.2)
        after, elapsed_s = self.cpu_seconds(), time.monotonic() - started
        machine = machine_cpu_s() - machine
        accepted = f"SELECT count(*) FROM steps WHERE accepted_at >= '{began}'"  # noqa: S608 - a time
        steps, transactions, wal = int(self.read(accepted)), self._transactions(began), self._wal() - wal
        if not self.read("SELECT EXISTS (SELECT FROM problems WHERE status = 'queued')"):
            raise NotSolved("The load ended before the observation did; submit more problems.")
        cpu_s = by_role({name: after[name] - before[name] for name in after})
        run = Run(
            steps=steps,
            seconds=elapsed_s,
            elapsed_s=elapsed_s,
            fastest_s=elapsed_s,
            cpu_s=cpu_s,
            transactions=transactions,
            wal_bytes=wal,
        )
        return Observed(run, statistics.mean(waiting), max(0.0, machine - sum(cpu_s.values())) / elapsed_s)

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self.roles.check()

    def idle_cpu(self, seconds: float) -> dict[str, float]:
        """Read the CPU time per second of each role and server while there is no problem."""
        before, began = self.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        after, elapsed = self.cpu_seconds(), time.monotonic() - began
        return by_role({name: (after[name] - before[name]) / elapsed for name in after})

    # --- readings --------------------------------------------------------------------------------------------------

    def table_bytes(self) -> dict[str, tuple[int, int]]:
        """Read rows and bytes, with indexes, of each table."""
        tables = ("problems", "steps", "decisions", "inbox")
        return {
            name: (
                int(self.read(f"SELECT count(*) FROM {name}")),  # noqa: S608 - a name in this code
                int(self.read(f"SELECT pg_total_relation_size('{name}')")),
            )
            for name in tables
        }

    def connections(self) -> dict[str, dict[str, float]]:
        """Count each role's TCP connections to the database and the broker, per process."""
        ports = {"database": self.engine.url.port or 5432, "broker": self._broker_port()}
        pids = self.roles.pids()
        counted: dict[str, Counter[str]] = {}
        for name, pid in pids.items():
            counter = counted.setdefault(role_of(name), Counter())
            for each in psutil.Process(pid).net_connections("tcp"):
                for server, port in ports.items():
                    counter[server] += bool(each.raddr and each.raddr.port == port)
        processes = Counter(role_of(name) for name in pids)
        return {
            role: {server: counter[server] / processes[role] for server in ports} for role, counter in counted.items()
        }

    def _take(self, load: Load) -> None:
        self.load, self.steps = load, load.steps

    def _transactions(self, began: datetime) -> int:
        """Count transactions since a time: all rows of one have the same time."""
        return int(
            self.read(
                "SELECT count(*) FROM (SELECT accepted_at AS at FROM steps UNION SELECT decided_at FROM decisions) AS t"  # noqa: S608 - a time
                f" WHERE at >= '{began}'"
            )
        )

    def _now(self) -> datetime:
        now: datetime = self.read("SELECT clock_timestamp()")
        return now

    def _wal(self) -> int:
        return int(self.read("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def _broker_port(self) -> int:
        connection = connect(self.settings)
        try:
            return int(connection.port or 5672)
        finally:
            connection.release()

    def _wait(self, is_done: Callable[[], bool], what: str, *, poll_s: float = 0.05) -> None:
        until = time.monotonic() + TIMEOUT_S
        while not is_done():
            self.roles.check()
            if time.monotonic() > until:
                raise NotSolved(f"The benchmark waited {TIMEOUT_S:.0f} s for {what}.")
            time.sleep(poll_s)


def machine_cpu_s() -> float:
    """Read the CPU time of all processes of the machine since its start."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def role_of(name: str) -> str:
    """Return the role of a process, or the server."""
    return name.partition("-")[0]


def by_role(values: Mapping[str, float]) -> dict[str, float]:
    """Sum values of processes by role."""
    summed: dict[str, float] = {}
    for name, value in values.items():
        summed[role_of(name)] = summed.get(role_of(name), 0.0) + value
    return summed


def _text_bytes(message: Mapping[str, Any]) -> int:
    texts = [
        message.get("question", ""),
        *message.get("prefix", ()),
        *(each["text"] for each in message.get("drafts", ())),
    ]
    return sum(len(text.encode()) for text in texts)

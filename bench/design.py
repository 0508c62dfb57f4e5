"""The base of both designs: it times problems and reads their cost in the same way for both."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import create_engine, make_url

from bench.counters import cpu_seconds, read_when_still
from bench.tap import Binding, Tap
from shared.errors import RetryableError
from shared.settings import Settings
from stack.roles import Roles

STEPS = 8
"""Number of steps of every problem."""

TIMEOUT_S = 120.0
"""Maximum duration of one run."""

_NOTE_ENDS = """
CREATE TABLE bench_ends (ended_at timestamptz NOT NULL);
CREATE FUNCTION bench_note_end() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO bench_ends VALUES (clock_timestamp()); RETURN NULL; END';
CREATE TRIGGER bench_note_end AFTER UPDATE ON {table} FOR EACH ROW
    WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL) EXECUTE FUNCTION bench_note_end();
"""

_REPORT_AT_ONCE = """
CREATE FUNCTION bench_report() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_stat_force_next_flush(); RETURN NULL; END';
CREATE TRIGGER bench_report AFTER INSERT OR UPDATE ON {table} EXECUTE FUNCTION bench_report();
"""

_REPORT_AS_USUAL = "DROP TRIGGER bench_report ON {table}; DROP FUNCTION bench_report"

_VACUUMS = "SELECT sum(autovacuum_count + autoanalyze_count) FROM pg_stat_all_tables"

_MOST_COUNTS = 3
"""Number of runs after which the count is used even if autovacuum interfered."""


class NotSolved(RetryableError):
    """The benchmark's problems were not solved."""

    code = "not_solved"


@dataclass(frozen=True, slots=True)
class Timing:
    """One run: its duration, and the CPU time of each process."""

    steps: int
    seconds: float
    cpu_s: Mapping[str, float]

    @property
    def steps_per_s(self) -> float:
        """Steps decided per second."""
        return self.steps / self.seconds


@dataclass(frozen=True, slots=True)
class Counts:
    """Messages and transactions per step."""

    messages_per_step: float
    transactions_per_step: float


class Design(ABC):
    """A running design with a separate database and separate queues.

    The benchmark has one session in that database. The session commits once per run, to submit. It reads in
    transactions that are rolled back, because the server counts those separately.
    """

    problem_table: ClassVar[str]
    """Table of problems; the design sets the column `finished_at` when a problem ends."""

    step_table: ClassVar[str]
    """Table of decided steps, one row per step."""

    steps: int = STEPS
    """Number of steps of the problems that `submit` makes."""

    def __init__(self, settings: Settings, roles: Roles) -> None:
        """Prepare a design whose roles run and whose tables exist."""
        self.settings = settings
        self.roles = roles
        url = make_url(settings.require_database_url()).set(drivername="postgresql+psycopg")
        # No prepared statements: after a rollback psycopg deallocates them in a separate transaction, which commits.
        options = {"connect_timeout": 5, "prepare_threshold": None}
        self.engine = create_engine(url, pool_size=1, max_overflow=0, connect_args=options)
        self._execute(_NOTE_ENDS)

    @abstractmethod
    def submit(self, count: int, *, lookahead: int) -> None:
        """Submit new problems, in one transaction."""

    @abstractmethod
    def bindings(self) -> Sequence[Binding]:
        """List the exchanges and routing keys with which the design publishes."""

    def close(self) -> None:
        """Close the benchmark's session."""
        self.engine.dispose()

    # --- timing ----------------------------------------------------------------------------------------------------

    def solve(self, count: int, *, lookahead: int = 0) -> float:
        """Solve new problems; return the seconds from just before the submission to the end of the last problem.

        Both times come from the database's clock; a trigger records the end when the problem's row is written.

        Raises:
            NotSolved: The problems were not solved in time, or with a wrong number of steps.
        """
        decided = self._decided()
        began = self.read("SELECT clock_timestamp()")
        self.submit(count, lookahead=lookahead)
        seconds = self._wait_for_ends(began, count)
        decided = self._decided() - decided
        if decided != count * self.steps:
            raise NotSolved(f"{count} problems of {self.steps} steps each ended with {decided} steps decided.")
        return seconds

    def _wait_for_ends(self, began: Any, count: int) -> float:
        query = "SELECT count(*), extract(epoch FROM max(ended_at) - %s) FROM bench_ends WHERE ended_at >= %s"
        until = time.monotonic() + TIMEOUT_S
        with self.engine.connect() as connection:
            while True:
                self.roles.check()
                ended, seconds = connection.exec_driver_sql(query, (began, began)).one()
                if ended >= count:
                    return float(seconds)
                if time.monotonic() > until:
                    raise NotSolved(f"Only {ended} of {count} problems were solved in {TIMEOUT_S:.0f} s.")
                time.sleep(0.05)

    def time(self, count: int, *, lookahead: int = 0) -> Timing:
        """Solve new problems; measure the duration and the CPU time of the processes."""
        before = self.cpu_seconds()
        seconds = self.solve(count, lookahead=lookahead)
        after = self.cpu_seconds()
        return Timing(count * self.steps, seconds, {name: after[name] - before[name] for name in after})

    def cpu_seconds(self) -> dict[str, float]:
        """Read the CPU time of the roles' processes, and of the servers if they run on this machine."""
        backend = self.read("SELECT pg_backend_pid()")
        return cpu_seconds(self.roles.pids(), backend=backend, broker_url=self.settings.require_broker_url())

    # --- messages and transactions ---------------------------------------------------------------------------------

    def warm_up_and_count(self, *, warm_up: int, count: int) -> Counts:
        """Solve some problems to warm up, then count messages and transactions in a run that is not timed.

        Messages: all that the design publishes during the run, counted by RabbitMQ (see `Tap`).

        Transactions: all that commit in the design's database during the run, counted by Postgres
        (`pg_stat_database.xact_commit`), minus the benchmark's. A session reports its transactions after a second, or
        after ten seconds if it is idle. A trigger on the table of problems therefore makes each writing session report
        immediately. Only the few transactions that touched no problem may be missing at the start or the end.
        Autovacuum's transactions would count too, so a run during which it was active is repeated.
        """
        self._execute(_REPORT_AT_ONCE)
        self.solve(warm_up)
        for _ in range(_MOST_COUNTS):
            vacuums = self.read(_VACUUMS)
            with Tap(self.settings, self.bindings()) as tap:
                commits, messages = read_when_still(lambda: (self._commits(), tap.count()))
                self.solve(count)
                commits_after, messages_after = read_when_still(lambda: (self._commits(), tap.count()))
            if self.read(_VACUUMS) == vacuums:
                break
        self._execute(_REPORT_AS_USUAL)
        own = 1  # The submission.
        steps = count * self.steps
        return Counts((messages_after - messages) / steps, (commits_after - commits - own) / steps)

    def _commits(self) -> int:
        self.read("SELECT pg_stat_force_next_flush()")  # The benchmark's session reports too.
        commits: int = self.read("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        return commits

    def _decided(self) -> int:
        decided: int = self.read(f"SELECT count(*) FROM {self.step_table}")  # noqa: S608 - a name in this code
        return decided

    # --- the benchmark's session -----------------------------------------------------------------------------------

    def read(self, query: str) -> Any:
        """Read one value; roll the transaction back, so that it is not counted."""
        with self.engine.connect() as connection:
            return connection.exec_driver_sql(query).scalar_one()

    def _execute(self, statements: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statements.format(table=self.problem_table))

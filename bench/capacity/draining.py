"""Runs the orchestrators alone: the workers are paused while waiting events are applied."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import psutil

from bench.capacity.loads import Load
from bench.capacity.rig import Rig, Run, by_role, role_of
from bench.tap import Binding, Tap
from shared.bus.connection import connect
from shared.bus.topology import EVENTS, QueueRole, Topology
from shared.domain.roles import WorkerRole
from shared.settings import Settings

CONCURRENCY = Settings.model_fields["concurrency"].default
"""Commands that a worker takes at a time, unless a benchmark sets another number."""


class DrainRig(Rig):
    """A running service whose processes can be paused."""

    def drain(self, load: Load) -> Run:
        """Let all problems of a load reach an event, pause the workers, and run the orchestrators on these events."""
        self._wait_for_rest()  # Problems of an earlier load would fill the window while the PRM is paused.
        self._take(load)
        self._declare_queues()
        orchestrators, prm = self._pids("orchestrator"), self._pids("prm")
        decided = self.read("SELECT count(*) FROM decisions")
        with paused(prm):
            with Tap(self.settings, [self._binding(WorkerRole.PRM)]) as drafts:
                self.submit(load.in_flight, lookahead=0)
                self._wait(lambda: drafts.count() >= load.in_flight, "the small model's drafts")
            with paused(orchestrators):
                with Tap(self.settings, [self._binding(EVENTS)]) as events:
                    for each in prm:
                        psutil.Process(each).resume()
                    scored: list[bytes] = []  # Without heartbeats, which use the same queue.

                    def are_scored() -> bool:
                        scored.extend(body for body in events.drain() if b"steps_scored" in body)
                        return len(scored) >= load.in_flight

                    self._wait(are_scored, "the scores")
                with paused([*self._pids("small"), *prm, *self._pids("large")]):
                    before, began, wal = self.cpu_seconds(), self._now(), self._wal()
                    for each in orchestrators:
                        psutil.Process(each).resume()
                    run = self._finish_drain(load, decided, began, before, wal)
        self._wait_for_rest()
        return run

    def _wait_for_rest(self) -> None:
        self._wait(lambda: self.read("SELECT count(*) FROM problems WHERE finished_at IS NULL") == 0, "the rest")

    def _finish_drain(self, load: Load, decided: int, began: datetime, before: Mapping[str, float], wal: int) -> Run:
        wanted = decided + load.in_flight
        self._wait(lambda: self.read("SELECT count(*) FROM decisions") >= wanted, "the decisions", poll_s=0.01)
        # The paused worker holds some of them already.
        self._wait(lambda: self._queued_small() >= load.in_flight - CONCURRENCY, "the next commands", poll_s=0.01)
        seconds = float(self.read(f"SELECT extract(epoch FROM clock_timestamp() - '{began}')"))  # noqa: S608 - a time
        after = self.cpu_seconds()
        return Run(
            steps=load.in_flight,
            seconds=seconds,
            elapsed_s=seconds,
            fastest_s=seconds,
            cpu_s=by_role({name: after[name] - before[name] for name in after}),
            transactions=self._transactions(began),
            wal_bytes=self._wal() - wal,
        )

    def _declare_queues(self) -> None:
        """Declare all queues, so that a tap can be bound before the first role has started."""
        connection = connect(self.settings)
        try:
            Topology(self.settings.queue_prefix).declare(connection)
        finally:
            connection.release()

    def _pids(self, role: str) -> list[int]:
        return [pid for name, pid in self.roles.pids().items() if role_of(name) == role]

    def _binding(self, role: QueueRole) -> Binding:
        queue = Topology(self.settings.queue_prefix).queue(role)
        return queue.exchange.name, queue.routing_key

    def _queued_small(self) -> int:
        queue = Topology(self.settings.queue_prefix).queue(WorkerRole.SMALL)
        connection = connect(self.settings)
        try:
            return int(connection.default_channel.queue_declare(queue=queue.name, passive=True).message_count)
        finally:
            connection.release()


@contextmanager
def paused(pids: Sequence[int]) -> Iterator[None]:
    """Pause processes for the duration of the block."""
    processes = [psutil.Process(pid) for pid in pids]
    try:
        for each in processes:
            each.send_signal(signal.SIGSTOP)
        while any(each.status() != psutil.STATUS_STOPPED for each in processes):
            time.sleep(0.001)
        yield
    finally:
        for each in processes:
            each.send_signal(signal.SIGCONT)

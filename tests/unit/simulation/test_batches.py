"""Batches of events that the orchestrator can apply in part only."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from services.orchestrator.batches import apply_deliveries
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.setting_aside import SetAside
from shared.bus.consumer import Delivery
from shared.bus.topology import EVENTS
from shared.domain.roles import WorkerRole
from shared.messages import WorkerSeen, encode
from shared.policies.threshold import Threshold
from shared.store.database import DatabaseBusy
from shared.store.port import SeenProcess
from simulation.clock import START
from simulation.disturbed import DisturbedService
from simulation.store import MemoryTransaction
from simulation.world import World


def heartbeat(worker: str) -> Delivery:
    seen = WorkerSeen(role=WorkerRole.SMALL, worker=worker, model="m", seen_at=START)
    return Delivery(body=encode(seen), is_redelivered=False, deliveries=1)


def test_a_locked_table_of_processes_is_waited_for_twice_and_holds_up_no_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = DisturbedService(World(seed=1, says_nothing=0, scores_badly=0))
    ids = [service.submit(f"What is {number}?", Threshold(threshold=0.5)) for number in range(3)]
    service.sweep()
    while service.running or any(letter.queue != EVENTS for letter in service.bus.letters):
        if service.running:
            service.work()
        else:
            service.deliver()
    events = [letter.delivered() for letter in service.bus.take_all()]
    waits: list[list[str]] = []

    def refuse(_transaction: MemoryTransaction, seen: Iterable[SeenProcess]) -> None:
        waits.append([each.name for each in seen])
        raise DatabaseBusy

    monkeypatch.setattr(MemoryTransaction, "record_processes", refuse)
    aside = SetAside(monotonic=lambda: 0.0)
    deliveries = [*(heartbeat(f"worker-{number}") for number in range(5)), *events]
    policies = PolicyCache(service.store)
    applied = apply_deliveries(service.store, deliveries, aside=aside, policies=policies, now=lambda: START)
    assert waits == [[f"worker-{number}" for number in range(5)], ["worker-0"]]
    assert (len(aside), len(applied.settled)) == (0, len(deliveries))
    assert all(service.state(each).decisions for each in ids)

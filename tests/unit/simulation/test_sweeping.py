"""Sweeps of the real orchestrator on the store in memory: draining, and problems that raise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest

from services.orchestrator import sweeping
from shared.domain.options import Options
from shared.domain.status import Status
from shared.policies.registry import build_policy
from shared.store.port import Change
from simulation.disturbed import DisturbedService
from simulation.store import MemoryStore
from simulation.world import World

SMALL_ONLY = build_policy("small-only", {})


def submitted(count: int) -> tuple[DisturbedService, list[UUID]]:
    service = DisturbedService(World())
    return service, [service.submit(f"What is {index}?", SMALL_ONLY, Options()) for index in range(count)]


def statuses(service: DisturbedService, ids: list[UUID]) -> list[Status]:
    return [service.state(each).status for each in ids]


def test_one_sweep_admits_and_ends_more_problems_than_one_transaction_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "SWEEP_LIMIT", 2)
    service, ids = submitted(5)
    service.sweep()
    assert statuses(service, ids) == [Status.RUNNING] * 5
    for each in ids:
        service.cancel(each)
    service.sweep()
    assert statuses(service, ids) == [Status.CANCELLED] * 5


def refuse_to_save(monkeypatch: pytest.MonkeyPatch, bad: UUID, *, until_failed: bool) -> None:
    """Have the store refuse changes of a problem: all of them, or those that do not fail it."""
    transaction: Any = type(MemoryStore().begin().__enter__())
    save = transaction.save

    def refusing(self: Any, changes: Iterable[Change]) -> None:
        changes = list(changes)
        for change in changes:
            is_bad = change.after.problem_id == bad
            if is_bad and not (until_failed and change.after.status is Status.FAILED):
                raise ValueError("refused")
        save(self, changes)

    monkeypatch.setattr(transaction, "save", refusing)


def test_a_problem_that_raises_fails_and_the_others_start(monkeypatch: pytest.MonkeyPatch) -> None:
    service, ids = submitted(3)
    refuse_to_save(monkeypatch, ids[1], until_failed=True)
    service.sweep()
    assert statuses(service, ids) == [Status.RUNNING, Status.FAILED, Status.RUNNING]


def test_a_problem_that_cannot_even_be_failed_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "SWEEP_LIMIT", 1)
    service, ids = submitted(3)
    refuse_to_save(monkeypatch, ids[2], until_failed=False)
    service.sweep()
    assert statuses(service, ids) == [Status.RUNNING, Status.RUNNING, Status.QUEUED]

"""Sweeps of the real orchestrator on the store in memory: draining, and problems that raise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from services.orchestrator import sweeping
from shared.domain.options import Options
from shared.domain.status import Status
from shared.policies.registry import build_policy
from shared.store.port import Change
from simulation.clock import START
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


def test_deadlines_that_pass_together_are_swept_in_portions_between_which_others_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeping, "SWEEP_LIMIT", 20)
    service = DisturbedService(World(), window=200)
    bound = Options(deadline_at=START + timedelta(seconds=9))
    running = [service.submit(f"What is {index}?", SMALL_ONLY, bound) for index in range(200)]
    service.sweep()
    late = [service.submit(f"Who is {index}?", SMALL_ONLY, bound) for index in range(100)]
    waiting = [service.submit(f"Why {index}?", SMALL_ONLY) for index in range(200)]
    portions: list[Counter[Status]] = []

    def note(changes: Sequence[Change]) -> None:
        if changes:
            portions.append(Counter(change.after.status for change in changes))

    monkeypatch.setattr(service.store, "_on_commit", note)
    service.clock.advance(9)
    service.sweep()
    assert statuses(service, running + late) == [Status.EXPIRED] * 300
    assert statuses(service, waiting) == [Status.RUNNING] * 200
    assert {service.state(each).started_at for each in late} == {None}, "a queued problem past its deadline started"
    assert max(portion.total() for portion in portions) <= 20
    kinds = [set(portion) for portion in portions]
    first, last = kinds.index({Status.RUNNING}), len(kinds) - 1 - kinds[::-1].index({Status.EXPIRED})
    assert first < last, "nobody started before all deadlines were swept"


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

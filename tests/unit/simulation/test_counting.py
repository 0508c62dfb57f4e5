"""What the real orchestrator counts, on the store in memory: what was committed, each thing once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from services.orchestrator import applying
from services.orchestrator.batches import apply_deliveries
from services.orchestrator.counting import count_committed
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.setting_aside import SetAside
from shared.bus.topology import DELIVERY_LIMIT, EVENTS
from shared.domain.decisions import Decision
from shared.domain.options import Options
from shared.domain.status import Status
from shared.machine.state import State
from shared.observe import metrics
from shared.policies.baselines import Random
from shared.policies.threshold import Threshold
from shared.store.database import DatabaseUnavailable
from shared.store.port import Change, Transaction
from simulation.clock import START
from simulation.disturbed import DisturbedService
from simulation.store import MemoryStore
from simulation.world import World
from tests.scraping import Scrape

THRESHOLD = Threshold(threshold=0.5)


def scrape() -> Scrape:
    return Scrape.here(*metrics.ORCHESTRATOR.metrics)


def check(counted: Scrape, service: DisturbedService, ids: Iterable[UUID]) -> None:
    """Compare what was counted with what is stored."""
    states = [service.state(each) for each in ids]
    steps = Counter(str(step.author) for state in states for step in state.steps)
    assert counted.by("trim_steps_total", "author") == steps
    records = [record for state in states for record in state.decisions]
    taken = Counter((record.policy.name, str(record.decision.action), record.decision.reason) for record in records)
    assert counted.by("trim_decisions_total", "policy", "action", "reason") == taken
    assert counted["trim_prm_score_count"] == sum(record.observation.score is not None for record in records)
    shadowed = Counter(
        (each.policy.name, str(each.outcome.action) if isinstance(each.outcome, Decision) else "skipped")
        for state in states
        for each in service.store.shadow_decisions(state.problem_id)
    )
    assert counted.by("trim_shadow_decisions_total", "policy", "outcome") == shadowed
    ledger: Counter[str] = sum((Counter(asdict(state.ledger)) for state in states), Counter())
    calls = {role: ledger.pop(column) for column, role in metrics.CALL_COLUMNS.items() if column in ledger}
    assert counted.by("trim_tokens_total", "kind") == ledger
    assert counted.by("trim_calls_total", "role") == calls
    assert counted.by("trim_problems_ended_total", "status") == Counter(
        state.status.value for state in states if state.status.is_final
    )


def disturb(service: DisturbedService, draw: random.Random) -> None:
    """Do one thing, disturbed or not."""
    letters, running = service.bus.letters, service.running
    lot = draw.random()
    if lot < 0.5 and letters:
        service.deliver(draw.randrange(len(letters)))
    elif lot < 0.75 and running:
        service.work(draw.randrange(len(running)), holds=draw.random() < 0.3)
    elif lot < 0.85 and service.bus.history:
        service.bus.resend(draw.choice(service.bus.history), is_redelivery=draw.random() < 0.5)
    elif lot < 0.9 and letters and letters[0].queue == EVENTS and letters[0].deliveries < DELIVERY_LIMIT - 1:
        service.deliver(0, crashes=True)
    elif lot < 0.93 and running:
        service.break_off(draw.randrange(len(running)))
    elif lot < 0.96 and running:
        service.crash_worker(draw.randrange(len(running)))
    else:
        service.sweep(crashes=draw.random() < 0.2)


@pytest.mark.parametrize("seed", range(12))
def test_after_duplicates_redeliveries_crashes_and_failures_the_counters_are_the_sums_of_what_is_stored(
    seed: int,
) -> None:
    draw, before = random.Random(seed), scrape()
    service = DisturbedService(World(seed=seed))
    ids = [
        service.submit(
            f"What is {number}?",
            policy,
            Options(lookahead=lookahead, max_attempts=3, deadline_at=START + timedelta(hours=number or 99)),
            shadows=(Random(p=0.5),),
        )
        for number, (policy, lookahead) in enumerate([(THRESHOLD, 4), (THRESHOLD, 0), (Random(p=0.3), None)])
    ]
    service.sweep()
    for turn in range(150):
        disturb(service, draw)
        if turn == 75:
            service.cancel(ids[1])
    check(scrape().since(before), service, ids)
    service.settle()
    counted = scrape().since(before)
    check(counted, service, ids)
    assert counted.sum("trim_swept_total", action="admitted") == 3
    assert counted["trim_batch_events_sum"] == counted["trim_events_total"]


class Unreliable(MemoryStore):
    """Loses the connection right before the commit, if the test wants it to."""

    fails = False

    @contextmanager
    def begin(self) -> Iterator[Transaction]:  # type: ignore[override]
        with super().begin() as transaction:
            yield transaction
            if self.fails:
                raise DatabaseUnavailable


def nothing_aside() -> SetAside:
    return SetAside(monotonic=lambda: 0.0)


def delivered(service: DisturbedService) -> list[Any]:
    """Have a worker write and another score the first step; return the event's delivery."""
    while not any(letter.queue == EVENTS for letter in service.bus.letters):
        if service.running:
            service.work()
        else:
            service.deliver()
    return [service.bus.take(len(service.bus.letters) - 1)]


def test_an_event_counts_after_its_commit_and_once() -> None:
    service = DisturbedService(World(seed=1, says_nothing=0, scores_badly=0))
    service.store = store = Unreliable()
    problem_id = service.submit("What?", THRESHOLD)
    service.sweep()
    [letter] = delivered(service)
    policies, before = PolicyCache(store), scrape()

    store.fails = True
    with pytest.raises(DatabaseUnavailable):
        apply_deliveries(store, [letter.delivered()], aside=nothing_aside(), policies=policies, now=lambda: START)
    assert scrape().since(before).by("trim_tokens_total", "kind") == {}
    assert scrape().since(before)["trim_events_total"] == 0

    store.fails = False
    for _ in range(3):
        apply_deliveries(store, [letter.delivered()], aside=nothing_aside(), policies=policies, now=lambda: START)
        counted = scrape().since(before)
        check(counted, service, [problem_id])
        assert counted["trim_events_total"] == counted["trim_batch_events_count"] == 1


def test_what_a_failed_batch_repeats_one_by_one_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    service = DisturbedService(World(seed=1, says_nothing=0, scores_badly=0))
    ids = [service.submit(f"What is {number}?", THRESHOLD) for number in range(3)]
    service.sweep()
    while service.bus.letters or service.running:
        if service.running:
            service.work()
        elif service.bus.letters[0].queue == EVENTS:
            break
        else:
            service.deliver()
    letters = [letter for letter in service.bus.take_all() if letter.queue == EVENTS]
    bad, before = letters[1].message.problem_id, scrape()  # type: ignore[union-attr]
    apply = applying.apply

    def crash(state: State, *arguments: Any, **named: Any) -> State:
        if state.problem_id == bad:
            raise ZeroDivisionError
        return apply(state, *arguments, **named)

    monkeypatch.setattr(applying, "apply", crash)
    applied = apply_deliveries(
        service.store,
        [letter.delivered() for letter in letters],
        aside=nothing_aside(),
        policies=PolicyCache(service.store),
        now=lambda: START,
    )
    assert len([each for each in applied.outgoing if not hasattr(each, "kind")]) == 1, "one dead letter"
    check(scrape().since(before), service, [each for each in ids if each != bad])


def test_a_problem_that_ends_or_starts_is_measured_from_its_submission() -> None:
    service = DisturbedService(World())
    problem_id = service.submit("What?", THRESHOLD)
    service.sweep()
    with service.store.begin() as transaction:
        locked = transaction.lock([problem_id])[problem_id]
    before = scrape()
    queued = locked.state.evolve(status=Status.QUEUED, started_at=None)
    started = queued.evolve(status=Status.RUNNING, started_at=START + timedelta(seconds=20))
    ended = started.evolve(status=Status.CANCELLED, finished_at=START + timedelta(seconds=50))
    for earlier, later in ((queued, started), (started, ended)):
        submitted = type(locked)(state=earlier, policy=locked.policy, submitted_at=START)
        count_committed([Change(submitted, later)])
    counted = scrape().since(before)
    assert (counted["trim_problem_queued_seconds_count"], counted["trim_problem_queued_seconds_sum"]) == (1, 20)
    assert counted.by("trim_problem_seconds_sum", "status") == {"cancelled": 50}
    assert counted.by("trim_problems_ended_total", "status", "reason") == {("cancelled", "none"): 1}

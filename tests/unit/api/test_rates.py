"""Requests of tenants in a minute, counted by several processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from services.api.access.rates import Quota, Rates
from shared.store.quotas import Counted, Totals

ONE, OTHER = UUID(int=1), UUID(int=2)
MINUTE = 20_000_000
BEGIN_S = MINUTE * 60


@dataclass
class Clock:
    now_s: float = BEGIN_S + 10

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Table:
    """The counts of all processes, as the database keeps them."""

    clock: Clock
    rows: dict[UUID, tuple[int, int]] = field(default_factory=dict)

    def exchange(self, rates: Rates) -> None:
        sent = rates.pending()
        for each in sent:
            minute, requests = self.rows.get(each.tenant_id, (each.minute, 0))
            if minute <= each.minute:
                self.rows[each.tenant_id] = each.minute, each.requests + (requests if minute == each.minute else 0)
        counts = [Counted(each.tenant_id, *self.rows[each.tenant_id]) for each in sent]
        rates.learn(sent, Totals(counts, self.clock.now_s), sent_at_s=rates._time_s())


def take(rates: Rates, count: int, *, tenant: UUID = ONE, limit: int = 5) -> list[bool]:
    return [rates.take(tenant, limit).is_granted for _ in range(count)]


def test_a_tenant_gets_its_limit_in_each_minute_and_others_are_not_affected() -> None:
    clock = Clock()
    rates = Rates(time_s=clock)
    assert take(rates, 7) == [True] * 5 + [False] * 2
    assert take(rates, 1, tenant=OTHER) == [True]
    clock.now_s = BEGIN_S + 59.99
    assert take(rates, 1) == [False]
    clock.now_s = BEGIN_S + 60
    assert take(rates, 6) == [True] * 5 + [False]


def test_the_headers_state_the_limit_what_is_left_and_when_the_minute_ends() -> None:
    clock = Clock()
    rates = Rates(time_s=clock)
    assert rates.take(ONE, 2) == Quota(limit=2, left=1, is_granted=True, resets_in_s=50)
    clock.now_s += 0.5
    rates.take(ONE, 2)
    refused = rates.take(ONE, 2)
    assert refused.headers == {"RateLimit-Policy": '"requests";q=2;w=60', "RateLimit": '"requests";r=0;t=50'}


def test_processes_share_a_limit_from_one_exchange_to_the_next() -> None:
    clock = Clock()
    first, second, table = Rates(time_s=clock), Rates(time_s=clock), Table(clock)
    assert take(first, 2) + take(second, 1) == [True] * 3
    table.exchange(first)
    table.exchange(second)
    assert second.take(ONE, 5).left == 1
    assert second.pending() == [Counted(ONE, MINUTE, 1)], "what the database has is not sent again"
    table.exchange(second)
    assert take(first, 3) == [True] * 3, "it learns of the others at the next exchange"
    table.exchange(first)
    assert take(first, 1) == [False]
    assert table.rows[ONE] == (MINUTE, 7)


def test_requests_that_are_counted_during_an_exchange_remain_pending() -> None:
    clock = Clock()
    rates = Rates(time_s=clock)
    take(rates, 2)
    sent = rates.pending()
    take(rates, 1)
    rates.learn(sent, Totals([Counted(ONE, MINUTE, 2)], clock.now_s), sent_at_s=clock.now_s)
    assert rates.pending() == [Counted(ONE, MINUTE, 1)]
    assert take(rates, 3) == [True, True, False]


def test_minutes_are_the_databases() -> None:
    clock, late = Clock(BEGIN_S + 70), Clock(BEGIN_S + 10)
    rates, table = Rates(time_s=late), Table(clock)
    take(rates, 5)
    table.exchange(rates)
    assert take(rates, 6) == [True] * 5 + [False], "a minute later, by the database's clock"
    late.now_s += 50
    assert take(rates, 1) == [True]


def test_a_clock_that_goes_back_grants_no_second_minute() -> None:
    clock = Clock()
    rates = Rates(time_s=clock)
    take(rates, 5)
    clock.now_s -= 60
    assert take(rates, 1) == [False]


def test_what_another_process_counted_in_a_later_minute_holds() -> None:
    clock = Clock()
    rates = Rates(time_s=clock)
    take(rates, 1)
    rates.learn(rates.pending(), Totals([Counted(ONE, MINUTE + 1, 5)], clock.now_s), sent_at_s=clock.now_s)
    assert take(rates, 1) == [False]

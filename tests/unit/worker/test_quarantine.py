"""Suspects run apart: a question that ends every worker costs a few workers, and no other problem."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest

from shared.worker import quarantine
from shared.worker.quarantine import (
    ALONE_AT,
    GUILTY_AT,
    QUIET_LOOKS,
    SEARCH_LOOKS,
    SUSPECT_AT,
    Quarantine,
    Suspect,
    group_size,
)

CONCURRENCY = 16


class Worker:
    """A worker whose open commands the test counts."""

    def __init__(self) -> None:
        self.open = 0
        self.changes = 0
        self.done: list[str] = []
        self.quarantine = Quarantine(CONCURRENCY, open_count=lambda: self.open, on_change=self._note)

    def _note(self) -> None:
        self.changes += 1

    def receive(
        self, name: str, losses: int, *, is_marked: bool = False, is_stale: Callable[[], bool] = lambda: False
    ) -> None:
        begin, put_back = partial(self._begin, name), partial(self.done.append, f"{name} put back")
        put_back_marked = partial(self.done.append, f"{name} put back marked")
        self.quarantine.receive(Suspect(name, losses, begin, put_back, put_back_marked, is_marked, is_stale))

    def _begin(self, name: str) -> None:
        self.open += 1
        self.done.append(f"{name} begun")

    def look(self, times: int = QUIET_LOOKS) -> None:
        for _ in range(times):
            self.quarantine.look()


def test_a_suspect_that_comes_to_a_busy_worker_goes_back_and_runs_once_everything_else_is_settled() -> None:
    worker = Worker()
    worker.open = 3
    worker.receive("a", ALONE_AT)
    assert (worker.done, worker.quarantine.takes_commands) == (["a put back"], False)
    worker.look(9)
    assert not worker.quarantine.takes_commands
    worker.open = 0
    worker.look()
    assert (worker.quarantine.takes_commands, worker.quarantine.is_open) == (True, False)
    assert not worker.quarantine.admits("innocent")
    worker.receive("a", ALONE_AT)
    assert not worker.quarantine.admits("innocent"), "it comes again before the one that was marked after it"
    worker.receive("other", SUSPECT_AT)
    worker.receive("a", ALONE_AT, is_marked=True)
    assert not worker.quarantine.takes_commands
    worker.look(1)
    before = ["a put back", "a put back marked", "other put back"]
    assert worker.done == before, "acknowledgements may still be on their way"
    worker.look(1)
    assert worker.done == [*before, "a begun"]
    worker.look(9)
    assert not worker.quarantine.takes_commands
    worker.open = 0
    worker.look()
    assert worker.quarantine.is_open
    changes = worker.changes
    worker.look(9)
    assert (len(worker.done), worker.changes) == (4, changes)


def test_suspects_that_do_not_fit_go_back_before_the_group_runs() -> None:
    worker = Worker()
    assert group_size(SUSPECT_AT, CONCURRENCY) == 4
    for number in range(3):
        worker.receive(str(number), SUSPECT_AT)
    worker.receive("alone", ALONE_AT)
    assert not worker.quarantine.admits("innocent")
    assert worker.quarantine.takes_commands
    worker.receive("3", SUSPECT_AT)
    assert not worker.quarantine.takes_commands, "the group is full"
    worker.receive("4", SUSPECT_AT)
    assert worker.done == ["alone put back", "4 put back"]
    worker.look()
    assert worker.done[2:] == ["0 begun", "1 begun", "2 begun", "3 begun"]
    worker.receive("late", SUSPECT_AT)
    assert worker.done[-1] == "late put back"
    assert not worker.quarantine.admits("innocent")


def test_a_group_runs_without_being_full_once_no_more_suspects_come() -> None:
    for seen_again in (True, False):
        worker = Worker()
        worker.receive("a", SUSPECT_AT)
        worker.quarantine.admits("b")
        if seen_again:
            worker.quarantine.admits("b")
            assert not worker.quarantine.takes_commands
        else:
            worker.look()
        worker.look()
        assert worker.done == ["a begun"]


@pytest.mark.parametrize("comes_twice", [True, False])
def test_a_search_ends_when_the_queue_holds_no_suspect_any_more(comes_twice: bool) -> None:
    worker = Worker()
    worker.open = 1
    worker.receive("a", SUSPECT_AT)
    worker.open = 0
    worker.look()
    assert [worker.quarantine.admits(name) for name in ("b", "c", "d")] == [False] * 3
    if comes_twice:
        assert worker.quarantine.admits("c")
    else:
        worker.look(SEARCH_LOOKS)
    assert worker.quarantine.is_open
    assert worker.quarantine.admits("d")


@pytest.mark.parametrize("has_suspect", [True, False])
def test_a_search_goes_on_while_commands_pass_until_it_has_seen_too_many(
    has_suspect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "REMEMBERED", 50)
    worker = Worker()
    worker.receive("a", SUSPECT_AT)
    if not has_suspect:
        worker.quarantine.close()
    for number in range(49):
        worker.look(1)
        assert not worker.quarantine.admits(number)
        assert worker.quarantine.takes_commands
    worker.quarantine.admits("last")
    assert (worker.quarantine.takes_commands, worker.quarantine.is_open) == (not has_suspect, not has_suspect)


def test_a_suspect_of_a_lost_connection_is_left_to_the_worker_that_has_it_now() -> None:
    worker = Worker()
    worker.receive("a", ALONE_AT, is_marked=True, is_stale=lambda: True)
    worker.look()
    assert (worker.done, worker.quarantine.is_open) == ([], True)


def test_a_worker_that_stops_puts_back_the_suspects_that_it_has_gathered() -> None:
    worker = Worker()
    worker.receive("a", SUSPECT_AT)
    worker.quarantine.close()
    worker.look(9)
    assert worker.done == ["a put back"]


class Broker:
    """A queue of commands, by name, with the number of times that each was lost; some end every worker."""

    def __init__(self, names: list[str], guilty: set[str]) -> None:
        self.waiting = list(names)
        self.guilty = guilty
        self.losses = dict.fromkeys(names, 0)
        self.marked: set[str] = set()
        self.tried: set[str] = set()
        """What was marked when it was delivered last."""
        self.lost_marked = dict.fromkeys(names, 0)
        self.done: list[str] = []
        self.convicted: list[str] = []
        self.deaths = 0
        self.rounds = 0

    def run(self, names: list[str], *, held: list[str]) -> bool:
        """Run commands in a worker; if it dies, all that it holds is lost. Return whether it lives."""
        self.rounds += 1
        if not self.guilty & set(names):
            self.done += names
            return True
        self.deaths += 1
        self.waiting[:0] = held
        for name in held:
            self.losses[name] += 1
            self.lost_marked[name] += name in self.tried
        return False

    def turn(self, concurrency: int) -> None:
        """Have a worker live until it has run what it takes at first, and one group of suspects."""
        open_now: list[str] = []
        group: list[str] = []
        quarantine = Quarantine(concurrency, open_count=lambda: len(open_now), on_change=lambda: None)

        def deliver() -> None:
            name = self.take()
            if self.lost_marked[name] >= GUILTY_AT:
                self.convicted.append(name)
            elif self.losses[name] >= SUSPECT_AT:
                quarantine.receive(self.suspect(name, begin=partial(group.append, name)))
            elif quarantine.admits(name):
                open_now.append(name)
            else:
                self.waiting.append(name)

        while self.waiting and quarantine.takes_commands and len(open_now) < concurrency:
            deliver()
        if not self.run(open_now, held=open_now):
            return
        open_now.clear()
        for _ in range(QUIET_LOOKS):
            quarantine.look()
        while self.waiting and quarantine.takes_commands and not quarantine.is_open:
            deliver()
        for _ in range(QUIET_LOOKS):
            quarantine.look()
        self.run(group, held=group)

    def take(self) -> str:
        """Deliver a command, and its mark if it has one."""
        name = self.waiting.pop(0)
        self.tried = (self.tried | {name}) if name in self.marked else (self.tried - {name})
        self.marked.discard(name)
        return name

    def suspect(self, name: str, *, begin: Callable[[], object]) -> Suspect:
        """Describe a suspect that was delivered."""

        def put_back_marked() -> None:
            self.marked.add(name)
            self.waiting.append(name)

        put_back = partial(self.waiting.append, name)
        return Suspect(name, self.losses[name], begin, put_back, put_back_marked, name in self.tried, lambda: False)


@pytest.mark.parametrize("guilty", [1, 7])
@pytest.mark.parametrize("concurrency", [1, 3, 16, 256])
def test_guilty_commands_are_convicted_after_five_deaths_each_and_every_innocent_one_is_carried_out(
    concurrency: int, guilty: int
) -> None:
    names = [f"command {number}" for number in range(300)]
    random.Random(guilty).shuffle(names)
    broker = Broker(names, set(names[5 : 5 + 30 * guilty : 30]))
    while broker.waiting:
        broker.turn(concurrency)
        assert broker.rounds < 3000
    assert sorted(broker.convicted) == sorted(broker.guilty)
    assert sorted(broker.done) == sorted(set(names) - broker.guilty)
    deaths = ALONE_AT + GUILTY_AT
    assert broker.deaths <= deaths * guilty
    if guilty == 1:
        assert broker.deaths == deaths
        at_once = -(-len(names) // concurrency)
        assert broker.rounds <= 2 * (at_once + 3 * concurrency**0.5 + deaths + 10), "not one by one"

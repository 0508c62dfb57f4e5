"""Waiting for an end across lost connections, step by step and without a clock that runs."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.unit.client import samples
from tests.unit.client.samples import BATCH_ID, PROBLEM_ID
from tests.unit.client.service import Service, answer
from trim_client import NotFound, Unreachable, WaitTimedOut
from trim_client.attempts import PATIENCE_S, Flow, Lost, Patience, Retries, Send, Sleep, until_batch_ended, until_ended
from trim_client.errors import Answer

LOST = httpx2.ReadError("reset")


class World:
    """Runs a flow on a clock that only requests and sleeps move."""

    def __init__(self, *replies: Answer | Exception, takes_s: float = 0.0) -> None:
        self.now, self.replies, self.takes_s = 1000.0, list(replies), takes_s
        self.done: list[str] = []

    def clock(self) -> float:
        return self.now

    def patience(self, timeout_s: float | None) -> Patience:
        retries = Retries(max_retries=2, draw=lambda: 0.0)
        return Patience(retries, timeout_s=timeout_s, clock=self.clock)

    def wait(self, timeout_s: float | None = None) -> Any:
        return self.run(until_ended(PROBLEM_ID, self.patience(timeout_s), address="here", clock=self.clock))

    def run(self, flow: Flow[Any]) -> Any:
        reply: Answer | Lost | None = None
        while True:
            try:
                effect = flow.send(reply)
            except StopIteration as end:
                return end.value
            match effect:
                case Sleep(seconds):
                    self.done.append(f"sleep {seconds:g}")
                    self.now += seconds
                    reply = None
                case Send(call):
                    wait_s = float(call.query.get("wait_s", 0))
                    self.done.append(f"wait {wait_s:g}")
                    self.now += self.takes_s
                    # The last reply stays.
                    made = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                    reply = Lost(made) if isinstance(made, Exception) else made


def told(body: dict[str, Any], status: int = 200) -> Answer:
    response = answer(body, status)
    return Answer(status, dict(response.headers), response.content)


RUNNING, ENDED = told(samples.problem("running")), told(samples.problem("succeeded"))


def test_a_wait_lasts_as_long_as_the_problem() -> None:
    world = World(RUNNING, RUNNING, ENDED, takes_s=50)
    assert world.wait().answer == "42"
    assert world.done == ["wait 50"] * 3


def test_a_lost_connection_is_made_again_more_often_than_a_request_is_repeated() -> None:
    world = World(RUNNING, LOST, LOST, LOST, LOST, LOST, told(samples.refusal(503, "unavailable"), 503), ENDED)
    assert world.wait().has_ended
    assert world.done.count("wait 50") == 8


def test_a_service_that_never_answered_is_abandoned_as_by_any_request() -> None:
    world = World(LOST)
    with pytest.raises(Unreachable):
        world.wait(timeout_s=3600)
    assert world.done == ["wait 50", "sleep 0.5", "wait 50", "sleep 1", "wait 50"]


def test_a_service_that_stays_away_is_abandoned_after_minutes() -> None:
    world = World(RUNNING, LOST)
    with pytest.raises(Unreachable):
        world.wait()
    assert PATIENCE_S < world.now - 1000 < PATIENCE_S + 20


def test_a_problem_that_is_not_found_is_not_waited_for() -> None:
    world = World(RUNNING, told(samples.refusal(404, "not_found"), 404))
    with pytest.raises(NotFound):
        world.wait()


@pytest.mark.parametrize("then", [RUNNING, LOST])
def test_a_wait_ends_at_its_time_limit_with_what_was_read_last(then: Answer | Exception) -> None:
    world = World(RUNNING, then, takes_s=7)
    with pytest.raises(WaitTimedOut, match=f"^The problem {PROBLEM_ID} is still running") as late:
        world.wait(timeout_s=20)
    assert 20 <= world.now - 1000 <= 28
    assert late.value.last is not None
    assert world.done[0] == "wait 20"


def test_a_service_that_stops_answers_early_and_is_not_asked_in_a_tight_loop() -> None:
    world = World(*[RUNNING] * 5, ENDED)
    world.wait()
    assert world.done == ["wait 50", "sleep 0.5"] * 5 + ["wait 50"]


def test_a_batch_is_looked_at_ever_less_often_and_shown_each_time() -> None:
    world = World(*[told(samples.batch(ended)) for ended in (0, 0, 1, 1, 1, 1, 1, 1, 2)])
    shown: list[int] = []
    flow = until_batch_ended(BATCH_ID, world.patience(None), address="here", show=lambda now: shown.append(now.ended))
    assert world.run(flow).has_ended
    assert shown == [0, 0, 1, 1, 1, 1, 1, 1, 2]
    sleeps = [float(each.split()[1]) for each in world.done if each.startswith("sleep")]
    assert sleeps == sorted(sleeps)
    assert (sleeps[0], max(sleeps)) == (0.25, 3.0)


def test_a_batch_that_takes_too_long_tells_how_many_problems_are_open() -> None:
    world = World(told(samples.batch(1)), LOST, told(samples.batch(1)))
    with pytest.raises(WaitTimedOut, match="is still open in 1 of 2 problems"):
        world.run(until_batch_ended(BATCH_ID, world.patience(5), address="here", show=None))
    assert world.now - 1000 == pytest.approx(5)


def test_both_clients_wait_and_solve(service: Service) -> None:
    ended = answer(samples.problem("succeeded"))
    service.answers(answer(samples.problem(), 201), answer(samples.problem()), LOST, ended, answer(samples.batch(2)))
    assert service.call(lambda client: client.problems.solve("What?", timeout_s=30)).has_succeeded
    assert [request.method for request in service.requests] == ["POST", "GET", "GET", "GET"]
    assert service.call(lambda client: client.batches.wait(BATCH_ID)).has_ended

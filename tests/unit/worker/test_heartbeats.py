"""What a worker's heartbeats report, and when they are sent."""

from __future__ import annotations

from datetime import timedelta

from shared.clock import ServiceClock
from shared.domain.fitness import Unfit
from shared.domain.roles import WorkerRole
from shared.messages import WorkerSeen
from shared.observe.health import Health
from shared.settings import Settings
from shared.worker.heartbeats import Heartbeats
from simulation.clock import START, SettableClock
from tests.unit.worker.working import Outbox

UNFIT = Unfit(code="access_denied", detail="The key is wrong.", since=START)


class Sender:
    """Heartbeats of a worker that has no pauses between them."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.unfit: Unfit | None = None
        self.clock = ServiceClock(SettableClock().clock)
        self.heartbeats = Heartbeats(
            Settings(node_name="small-1", heartbeat_s=1000),
            WorkerRole.SMALL,
            Health(role="small", node="small-1", conditions=()),
            clock=self.clock,
            model=lambda: "tiny",
            unfit=lambda: self.unfit,
        )

    def send(self, count: int) -> list[WorkerSeen]:
        """Have news for some heartbeats; return what was sent."""
        left = count

        def has_news() -> bool:
            nonlocal left
            left -= 1
            self.heartbeats.send_now()
            return left >= 0

        self.heartbeats.run(self.outbox, has_news)
        return [message for message in self.outbox.messages if isinstance(message, WorkerSeen)]


def test_a_heartbeat_states_why_the_worker_is_unfit_and_how_far_its_clock_is_ahead() -> None:
    sender = Sender(Outbox())
    sender.clock.set(START - timedelta(seconds=90))
    sender.unfit = UNFIT
    [sent] = sender.send(1)
    assert (sent.unfit, sent.clock_ahead_s, sent.seen_at) == (UNFIT, 90, START - timedelta(seconds=90))
    assert (sent.role, sent.worker, sent.model) == ("small", "small-1", "tiny")


def test_news_are_sent_at_once_but_only_one_heartbeat_waits_for_the_broker() -> None:
    assert len(Sender(Outbox()).send(3)) == 3
    assert len(Sender(Outbox(confirms=False)).send(3)) == 1


def test_no_heartbeat_is_sent_after_the_end() -> None:
    sender = Sender(Outbox())
    sender.heartbeats.end()
    assert sender.send(3) == []

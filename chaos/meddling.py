"""Meddles with the messages of a deployment: takes them off their queues, and moves, doubles, holds or loses them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from kombu.connection import Connection
from kombu.messaging import Producer

from chaos.deployment import PATIENCE_S, Deployment, NeverHappened
from shared.bus.connection import connect
from shared.bus.signing import SIGNATURE_HEADER
from shared.bus.topology import QUEUES, REASON_HEADER, QueueRole, Topology
from shared.domain.roles import WorkerRole
from shared.settings import Settings

_OTHER_AUTHOR: Mapping[QueueRole, QueueRole] = {
    WorkerRole.SMALL: WorkerRole.LARGE,
    WorkerRole.LARGE: WorkerRole.SMALL,
}

DISTURBANCES = 150
"""Number of times that messages are meddled with. Without an end, a problem would run out of attempts."""


@dataclass(frozen=True)
class Seen:
    """A message as it was on its queue."""

    queue: QueueRole
    body: bytes
    headers: Mapping[str, Any]


class Meddler:
    """Stands at the queues of a deployment; what it does is drawn from a seed."""

    def __init__(self, connection: Connection, topology: Topology, draw: Random) -> None:
        self._topology = topology
        self._draw = draw
        self._channel = connection.default_channel
        self._producer = Producer(self._channel, auto_declare=False)
        self._seen: list[Seen] = []
        self._held: list[Seen] = []
        self.done: Counter[str] = Counter()
        """What it has done, and how often."""

    def meddle(self) -> None:
        """Disturb the next message of some queue, and send an old one again."""
        for queue in self._draw.sample(QUEUES, len(QUEUES)):
            message = self._topology.queue(queue)(self._channel).get(no_ack=True)
            if message is None:
                continue
            body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
            self._disturb(
                Seen(
                    queue,
                    body,
                    {key: message.headers[key] for key in ("task", SIGNATURE_HEADER) if key in message.headers},
                )
            )
            break
        if self._seen and self._draw.random() < 0.3:
            self._send("replayed", self._draw.choice(self._seen))

    def _disturb(self, seen: Seen) -> None:
        self._seen.append(seen)
        elsewhere = self._draw.choice([queue for queue in QUEUES if queue != seen.queue])
        if seen.queue in _OTHER_AUTHOR and self._draw.random() < 0.5:
            elsewhere = _OTHER_AUTHOR[seen.queue]  # Another worker there could carry the command out.
        lot = self._draw.random()
        if lot < 0.2:
            self._send("moved", seen, elsewhere)
        elif lot < 0.4:
            self._send("copied elsewhere", seen, elsewhere)
            self._send("passed on", seen)
        elif lot < 0.7:
            self._send("doubled", seen)
            self._send("passed on", seen)
        elif lot < 0.9:
            self.done["held"] += 1
            self._held.append(seen)
        else:
            self.done["lost"] += 1
        if len(self._held) > 5:
            self._send("let go", self._held.pop(0))

    def replay_all(self) -> None:
        """Send every message again that was seen."""
        for seen in self._seen:
            self._send("replayed", seen)

    def _send(self, what: str, seen: Seen, queue: QueueRole | None = None) -> None:
        self.done[what] += 1
        target = self._topology.queue(queue or seen.queue)
        self._producer.publish(
            seen.body, exchange=target.exchange.name, routing_key=target.routing_key, headers=dict(seen.headers),
            content_type="application/json", content_encoding="binary", delivery_mode=2,
        )  # fmt: skip

    def count_waiting(self) -> int:
        """Count the messages that wait on all queues."""
        return sum(
            self._topology.queue(queue)(self._channel).queue_declare(passive=True).message_count for queue in QUEUES
        )

    def take_reasons(self) -> list[str]:
        """Take all dead letters, and return their reasons."""
        reasons = []
        for queue in QUEUES:
            letters = self._topology.dead_letters(queue)(self._channel)
            while (letter := letters.get(no_ack=True)) is not None:
                reasons.append(str(letter.headers.get(REASON_HEADER)))
        return reasons


@contextmanager
def meddling(settings: Settings, draw: Random) -> Iterator[Meddler]:
    """Meddle with a deployment's messages for as long as the block does."""
    topology = Topology(settings.queue_prefix)
    connection = connect(settings)
    try:
        topology.declare(connection.default_channel)
        yield Meddler(connection, topology, draw)
    finally:
        connection.release()


def disturb(deployment: Deployment, meddler: Meddler, draw: Random, *, victims: Sequence[str]) -> None:
    """Disturb a deployment until all problems have ended: meddle with messages, and kill or stop each victim once.

    Raises:
        NeverHappened: The problems did not end in time.
    """
    left = draw.sample(victims, len(victims))
    until = time.monotonic() + 3 * PATIENCE_S
    turn = 0
    while deployment.rows("SELECT 1 FROM problems WHERE finished_at IS NULL LIMIT 1"):
        if time.monotonic() > until:
            raise NeverHappened(f"Problems are stuck after {dict(meddler.done)}.")
        if turn < DISTURBANCES:
            meddler.meddle()
        else:
            time.sleep(0.05)
        if turn % 25 == 24 and left:
            is_killed = draw.choice([True, False])
            role = left.pop()
            if is_killed:
                deployment.roles.kill(role)
            else:
                deployment.roles.stop(role)
            deployment.roles.start(role)
        turn += 1

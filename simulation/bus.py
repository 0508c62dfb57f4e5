"""The bus in memory: messages travel encoded, and arrive in whatever order the caller chooses."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from shared.bus.consumer import Delivery
from shared.bus.topology import DeadLetter, QueueRole, ReturnedCommand, queue_of
from shared.domain.roles import WorkerRole
from shared.messages import GenerateSteps, Message, ScoreSteps, decode, encode


@dataclass(slots=True, eq=False)
class Letter:
    """A message on its way to a queue, or to every worker process."""

    queue: QueueRole | None
    """`None` for a broadcast."""
    body: bytes
    message: Message
    """What the body holds; receivers decode that themselves."""
    deliveries: int = 0
    """Number of deliveries so far."""

    def delivered(self) -> Delivery:
        """Count a delivery, and return it as the orchestrator receives it."""
        self.deliveries += 1
        return Delivery(body=self.body, is_redelivered=self.deliveries > 1, deliveries=self.deliveries)


class MemoryBus:
    """All messages on their way, oldest first. Safe to use from many threads."""

    def __init__(self, *, keeps_history: bool = True) -> None:
        """Create an empty bus.

        Args:
            keeps_history: Whether to keep every published message, and to check that decoding returns it unchanged.
        """
        self.letters: list[Letter] = []
        self.history: list[Message] = []
        """Every message that was ever published."""
        self.dead_letters: list[DeadLetter] = []
        self.changed = threading.Condition(threading.RLock())
        """Notified when messages arrive."""
        self._keeps_history = keeps_history

    def publish(self, *messages: Message | DeadLetter | ReturnedCommand) -> None:
        """Publish messages."""
        letters = [self._letter(message) for message in messages if not isinstance(message, DeadLetter)]
        with self.changed:
            self.letters += letters
            self.dead_letters += [message for message in messages if isinstance(message, DeadLetter)]
            if self._keeps_history:
                self.history += [letter.message for letter in letters]
            self.changed.notify_all()

    def let_go(self) -> None:
        """Release the lock if this thread still holds it: a signal may interrupt `with` right after it took it."""
        with suppress(RuntimeError):
            while True:
                self.changed.release()

    def put_back(self, letter: Letter) -> None:
        """Return a message that was delivered and not acknowledged; the next delivery is a redelivery."""
        with self.changed:
            self.letters.append(letter)
            self.changed.notify_all()

    def resend(self, message: Message, *, is_redelivery: bool = False) -> None:
        """Send a copy of a message that was published before."""
        letter = self._letter(message)
        letter.deliveries = int(is_redelivery)
        self.put_back(letter)

    def misplace(self, place: int, queue: QueueRole) -> None:
        """Move one of the messages to a queue, which may not be that of the message."""
        with self.changed:
            self.letters[place].queue = queue

    def renew(self, role: WorkerRole, *, now: datetime) -> None:
        """Have the commands of a queue stay valid from now on for as long as when they were issued, as workers do."""
        with self.changed:
            for letter in self.letters:
                command = letter.message
                if letter.queue == role and isinstance(command, GenerateSteps | ScoreSteps):
                    validity = command.expires_at - command.issued_at
                    letter.message = command.model_copy(update={"expires_at": now + validity})
                    letter.body = encode(letter.message)

    def take(self, place: int = 0) -> Letter:
        """Take one of the messages."""
        with self.changed:
            return self.letters.pop(place)

    def take_all(self) -> list[Letter]:
        """Take all messages that are there."""
        with self.changed:
            taken, self.letters = self.letters, []
            return taken

    def _letter(self, message: Message | ReturnedCommand) -> Letter:
        if isinstance(message, ReturnedCommand):
            letter = self._letter(decode(message.body))
            letter.deliveries = message.past.runs
            return letter
        body, queue = encode(message), queue_of(message)
        assert not self._keeps_history or decode(body) == message, "a message changes on its way"
        return Letter(queue=queue, body=body, message=message)

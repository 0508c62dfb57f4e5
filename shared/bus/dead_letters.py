"""Dead letters: the messages that the service could not use, as values, and the two places where they are kept.

Reading them changes nothing that the service sees. A letter is removed only after its copy is published, so a crash in
between leaves both: the service books a message that arrives twice once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Protocol
from uuid import UUID

from shared.bus.connection import is_pgmq, pgmq_server
from shared.bus.signing import SIGNATURE_HEADER
from shared.bus.topology import BURIED_HEADER, QUEUES, REASON_HEADER, QueueRole, Topology, delivered_too_often
from shared.settings import Settings

NO_TEXT: Final = 80
"""Maximum number of characters of a string that `redacted` keeps: codes, names and ids, but no question or step."""

_TEXTS: Final = frozenset({"question", "prefix", "text"})
_TOO_OFTEN: Final = re.compile(delivered_too_often(r"\d+"))
_KIND: Final = re.compile(r"[a-z_]{1,40}")


class LetterReason(StrEnum):
    """Why a message is a dead letter."""

    REJECTED = "rejected"
    """A process of the service could not use it."""
    DELIVERY_LIMIT = "delivery_limit"
    """It was delivered too often without an acknowledgement."""
    EXPIRED = "expired"
    """It stayed on its queue for longer than a policy of the broker allows."""
    MAXLEN = "maxlen"
    """Its queue was longer than a policy of the broker allows."""
    UNKNOWN = "unknown"
    """It has no header that tells."""


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A dead letter as it is stored. Its content may come from anyone."""

    role: QueueRole
    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    stored_at: datetime | None = None
    """When it became a dead letter, if the broker stores that."""
    handle: int
    """By which its place knows it."""

    @cached_property
    def value(self) -> Any:
        """Its content, if that is JSON; otherwise `None`."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @cached_property
    def id(self) -> UUID:
        """The id in the message if it has one, otherwise one derived from its bytes. Copies have the same id."""
        found = _uuid(self._field("id"))
        return found or UUID(bytes=hashlib.blake2b(self.body, digest_size=16).digest())

    @property
    def problem_id(self) -> UUID | None:
        """The problem that it concerns, as far as it names one."""
        return _uuid(self._field("problem_id"))

    @property
    def kind(self) -> str | None:
        """Kind of the message, as far as it names one."""
        kind = self._field("kind")
        return kind if isinstance(kind, str) and _KIND.fullmatch(kind) else None

    @property
    def detail(self) -> str | None:
        """Reason in words, which the process of the service gave that could not use it."""
        detail = self.headers.get(REASON_HEADER)
        return detail if isinstance(detail, str) else None

    @property
    def signature(self) -> str | None:
        """Signature with which the message arrived."""
        signature = self.headers.get(SIGNATURE_HEADER)
        return signature if isinstance(signature, str) else None

    @property
    def reason(self) -> LetterReason:
        """Reason why it is here."""
        if self.detail is not None:
            return LetterReason.DELIVERY_LIMIT if _TOO_OFTEN.fullmatch(self.detail) else LetterReason.REJECTED
        try:
            return LetterReason(str(self._death.get("reason")))
        except ValueError:
            return LetterReason.UNKNOWN

    @property
    def at(self) -> datetime | None:
        """When it became a dead letter; `None` if nothing tells."""
        if self.stored_at is not None:
            return self.stored_at
        died = self._death.get("time")
        if isinstance(died, datetime):
            return died if died.tzinfo else died.replace(tzinfo=UTC)
        try:
            return datetime.fromisoformat(str(self.headers.get(BURIED_HEADER)))
        except ValueError:
            return None

    @property
    def _death(self) -> Mapping[str, Any]:
        deaths = self.headers.get("x-death")
        newest = deaths[0] if isinstance(deaths, list) and deaths else None
        return newest if isinstance(newest, dict) else {}

    def _field(self, name: str) -> Any:
        return self.value.get(name) if isinstance(self.value, dict) else None


def redacted(value: Any) -> Any:
    """Return JSON without the texts of problems: a sentence with the length is in place of each."""
    match value:
        case dict():
            return {
                name: _hidden(item) if name in _TEXTS and isinstance(item, str | list) else redacted(item)
                for name, item in value.items()
            }
        case list():
            return [redacted(item) for item in value]
        case str() if len(value) > NO_TEXT:
            return _hidden(value)
        case _:
            return value


def _hidden(item: str | list[Any]) -> Any:
    if isinstance(item, str):
        return f"({len(item)} characters)"
    return [_hidden(each) if isinstance(each, str) else redacted(each) for each in item]


def _uuid(value: object) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


class DeadLetters(Protocol):
    """The dead letters of a deployment at its broker. For one thread."""

    def count(self) -> Mapping[QueueRole, int]:
        """Count the letters of each queue; one that was never declared holds none."""

    def read(self, role: QueueRole, *, limit: int) -> Generator[Letter, None, None]:
        """Read the letters of a queue, oldest first, each once.

        While the caller iterates, it may remove the letter that it has got. The others stay, in their order.
        """

    def remove(self, letter: Letter) -> None:
        """Remove the letter that `read` yielded last."""


@contextmanager
def opened(settings: Settings) -> Iterator[DeadLetters]:
    """Connect to the broker for the block.

    Raises:
        BrokerUnavailable: The broker does not answer, or the connection broke.
        BrokerForbids: The user may not read, or not write, what the block needs.
    """
    with _opened_in_pgmq(settings) if is_pgmq(settings) else _opened_in_rabbitmq(settings) as letters:
        yield letters


def _opened_in_pgmq(settings: Settings) -> AbstractContextManager[DeadLetters]:
    pgmq_server()  # It explains what is not installed.
    from shared.bus.pgmq_dead_letters import opened_in_pgmq  # noqa: PLC0415 - needs psycopg

    return opened_in_pgmq(settings)


def _opened_in_rabbitmq(settings: Settings) -> AbstractContextManager[DeadLetters]:
    from shared.bus.amqp_dead_letters import opened_in_rabbitmq  # noqa: PLC0415 - it imports this module

    return opened_in_rabbitmq(settings)


def count_dead_letters(settings: Settings) -> Mapping[str, int]:
    """Count the messages in each dead-letter queue, by its name; a queue that was never declared holds none.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    topology = Topology(settings.queue_prefix)
    with opened(settings) as letters:
        counts = letters.count()
    return {topology.dead_letters(role).name: counts[role] for role in QUEUES}

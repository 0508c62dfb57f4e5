"""The plan of a deployment, as values. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the deployment achieves."""

    steps_per_s: float
    problems_per_s: float
    window: int
    """`TRIM_WINDOW`."""
    step_seconds: float
    """Time from one step of a problem to its next, while the small GPUs are full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherGpus:
    """GPUs of the PRM and of the large model, one worker each."""

    prm: int
    large: int
    prm_tokens_per_s: float
    large_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Orchestrators:
    """The orchestrators."""

    count: int
    cores: float
    events_per_s: float
    events_per_transaction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """One node of RabbitMQ."""

    messages_per_s: float
    mb_per_s: float
    """Megabytes of message bodies per second that arrive; as many leave."""
    cores: float
    mb_in_flight: float
    """Bodies of the messages that are in queues or unacknowledged at a time."""
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Postgres."""

    transactions_per_s: float
    cores: float
    connections: int
    wal_mb_per_s: float
    kept_gb_per_day: float
    inbox_gb: float
    """Rows of the inbox, which are deleted a day after their problem ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apis:
    """The processes of the api."""

    count: int
    cores: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a number of small GPUs needs."""

    small_gpus: int
    work: Work
    other_gpus: OtherGpus
    worker_cores: float
    """CPU cores of all workers for the service's work; engines come on top."""
    orchestrators: Orchestrators
    broker: Broker
    database: Database
    apis: Apis

"""Unusable messages are moved to the dead letters without waiting for the broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from shared.bus.publisher import Publisher, SharedPublisher
from shared.domain.roles import WorkerRole
from shared.engines.scripted import Script, ScriptedScorer
from shared.observe.health import Health
from shared.settings import Settings
from shared.worker.broker_watch import BrokerWatch
from shared.worker.command_worker import CONDITIONS, CommandWorker


def test_a_message_is_buried_while_the_broker_answers_nothing_and_settled_once_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_confirmed, sent = threading.Event(), list[Any]()

    def publish(_self: Publisher, messages: Any) -> None:
        is_confirmed.wait(60)
        sent.extend(messages)

    monkeypatch.setattr(Publisher, "publish", publish)
    settings = Settings(broker_url="amqp://127.0.0.1:9")
    health = Health(role="prm", node="prm-0", conditions=CONDITIONS)
    worker = CommandWorker(
        settings, WorkerRole.PRM, health, engine=ScriptedScorer(Script()),
        begin=lambda *_: None, probe=lambda _: None,  # type: ignore[arg-type]
    )  # fmt: skip
    settled = threading.Event()

    def settle(call: Callable[..., None], **_named: Any) -> None:
        settled.set()

    message = Mock(body=b"nonsense", delivery_info={})
    with closing(SharedPublisher(settings)) as publisher:
        worker._publisher, worker._watch = publisher, BrokerWatch(health)
        worker._make_reception().strategy(Mock(), Mock(), SimpleNamespace(call_soon_ack=settle))(message)
        assert (sent, settled.is_set()) == ([], False)
        is_confirmed.set()
        assert settled.wait(60)
    [letter] = sent
    assert letter.body == b"nonsense"

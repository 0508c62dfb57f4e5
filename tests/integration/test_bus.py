"""The bus on both brokers: confirms, returned messages, redelivery, lost connections."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from amqp.exceptions import PreconditionFailed
from kombu.entity import Exchange, Queue
from pydantic import SecretStr

from chaos.proxy import Proxy
from shared.bus.broadcasts import forget_listeners
from shared.bus.connection import (
    BadBrokerUrl,
    BrokerBlocked,
    BrokerRefused,
    BrokerUnavailable,
    MessageTooLarge,
    connect,
    is_pgmq,
)
from shared.bus.consumer import BatchConsumer
from shared.bus.declaring import QueueDiffers
from shared.bus.publisher import Publisher, SharedPublisher
from shared.bus.topology import COMMAND, DeadLetter, Past, ReturnedCommand, Topology, past_of
from shared.domain.roles import WorkerRole
from shared.errors import RetryableError
from shared.messages import MAX_PREFIX_BYTES, CancelWork, WorkerSeen, WorkFailed, derive_id, encode
from shared.settings import Settings
from stack.scratch import scratch_prefix, scratch_queues

pytestmark = pytest.mark.servers


@pytest.fixture
def settings(broker_url: str) -> Iterator[Settings]:
    made = Settings(broker_url=broker_url, queue_prefix=scratch_prefix(), visibility_timeout_s=1)
    with scratch_queues(made):
        yield made


def seen(worker: str) -> WorkerSeen:
    return WorkerSeen(role="small", worker=worker, model="m", seen_at=datetime(2026, 1, 1, tzinfo=UTC))


def failed(detail: str) -> WorkFailed:
    return WorkFailed(
        id=derive_id("x"),
        problem_id=uuid4(),
        epoch=0,
        request_number=0,
        role="prm",
        code="c",
        detail=detail,
        retryable=True,
        worker="w",
    )


MAX_STEP_TOKENS = 8192


def consumer(settings: Settings, *, batch: int = 10) -> BatchConsumer:
    return BatchConsumer(settings, "events", batch=batch, linger_s=0.05)


def take(source: BatchConsumer, count: int) -> list[bytes]:
    """Take a number of messages and settle them."""
    taken: list[bytes] = []
    for _ in range(100):
        deliveries = source.take(0.2)
        source.settle(deliveries)
        taken += [delivery.body for delivery in deliveries]
        if len(taken) >= count:
            break
    return taken


def test_a_published_message_is_delivered_once_and_complete(settings: Settings) -> None:
    messages = [seen(f"w{index}") for index in range(25)]
    with closing(Publisher(settings)) as publisher, closing(consumer(settings)) as source:
        publisher.publish(messages)
        assert sorted(take(source, 25)) == sorted(encode(message) for message in messages)
        assert source.take(0.2) == []


def test_the_largest_message_of_the_contract_passes_through_the_broker(settings: Settings) -> None:
    """Question and prefix at their limit, one step more, and JSON's longest escape for each byte."""
    written = failed("\x01" * (MAX_PREFIX_BYTES + 4 * MAX_STEP_TOKENS))
    with closing(Publisher(settings)) as publisher, closing(consumer(settings)) as source:
        publisher.publish([written])
        [body] = take(source, 1)
        assert body == encode(written)
        assert len(body) > 6 * MAX_PREFIX_BYTES


def test_a_message_without_a_queue_raises_and_the_next_attempt_succeeds(settings: Settings) -> None:
    with closing(Publisher(settings)) as publisher:
        publisher.publish([seen("before")])
        connection = connect(settings)
        topology = Topology(settings.queue_prefix)
        if is_pgmq(settings):
            connection.default_channel.pgmq.drop_queue(f"{settings.queue_prefix}_events")
        else:
            topology.queue("events")(connection.default_channel).delete()
        connection.release()
        with pytest.raises(RetryableError):
            publisher.publish([seen("lost?")])
        publisher.publish([seen("after")])
        with closing(consumer(settings)) as source:
            assert take(source, 1) == [encode(seen("after"))]


def test_an_unsettled_message_is_redelivered_and_marked_as_such(settings: Settings) -> None:
    event = failed("d")
    with closing(Publisher(settings)) as publisher:
        publisher.publish([event])
    with closing(consumer(settings)) as first:
        [delivery] = [each for _ in range(25) for each in first.take(0.2)][:1]
        assert not delivery.is_redelivered
    with closing(consumer(settings)) as second:
        again = [each for _ in range(25) for each in second.take(0.2)]
        assert [(each.body, each.is_redelivered) for each in again[:1]] == [(encode(event), True)]
        second.settle(again)


def test_messages_that_stay_unsettled_for_long_keep_no_others_out(broker_url: str) -> None:
    patient = Settings(broker_url=broker_url, queue_prefix=scratch_prefix(), visibility_timeout_s=600)
    messages = [seen(f"w{index}") for index in range(25)]
    with scratch_queues(patient), closing(Publisher(patient)) as publisher:
        publisher.publish(messages)
        with closing(consumer(patient, batch=2)) as source:
            held = [*source.take(0.5)]
            while len(held) < 24:
                source.make_room()
                taken = source.take(5.0)
                assert taken, f"the broker delivered only {len(held)}"
                held += taken
            assert not any(each.is_redelivered for each in held)
            source.settle(held[5:10])
            source.settle([*held[:5], *held[10:]])
            assert {each.body for each in held} | {*take(source, 1)} == {encode(each) for each in messages}
        with closing(consumer(patient)) as after:
            assert after.take(0.2) == []


def test_a_consumer_that_closes_requeues_its_unsettled_messages(broker_url: str) -> None:
    patient = Settings(broker_url=broker_url, queue_prefix=scratch_prefix(), visibility_timeout_s=600)
    with scratch_queues(patient):
        with closing(Publisher(patient)) as publisher:
            publisher.publish([seen("w")])
        with closing(consumer(patient)) as first:
            assert any(first.take(0.2) for _ in range(50))
        with closing(consumer(patient)) as second:
            assert take(second, 1) == [encode(seen("w"))], "long before it would be visible again by itself"


def test_a_command_that_is_published_again_keeps_its_past_on_both_brokers(settings: Settings) -> None:
    past = Past(runs=3, losses=1)
    with closing(Publisher(settings)) as publisher:
        publisher.publish([ReturnedCommand(WorkerRole.SMALL, b"{}", past)])
    for lost in range(2):
        with closing(BatchConsumer(settings, "small", batch=1, linger_s=0)) as source:
            [delivery] = next(filter(None, (source.take(0.2) for _ in range(50))))
            assert past_of(delivery.message) == Past(runs=3 + lost, losses=1 + lost)
            assert (delivery.body, delivery.message.headers["task"]) == (b"{}", COMMAND)


def test_requeueing_counts_as_one_delivery(rabbitmq_server: str) -> None:
    patient = Settings(broker_url=rabbitmq_server, queue_prefix=scratch_prefix())
    with scratch_queues(patient):
        with closing(Publisher(patient)) as publisher:
            publisher.publish([seen("w")])
        for times in range(3):
            with closing(consumer(patient)) as source:
                [delivery] = next(filter(None, (source.take(0.2) for _ in range(50))))
                assert delivery.deliveries == times + 1


def test_a_message_that_is_held_for_long_is_not_redelivered(
    rabbitmq_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.consumer.HEARTBEAT_S", 3)
    patient = Settings(broker_url=rabbitmq_server, queue_prefix=scratch_prefix())
    with scratch_queues(patient), closing(Publisher(patient)) as publisher:
        publisher.publish([seen("w")])
        with closing(consumer(patient)) as source:
            deliveries = next(filter(None, (source.take(0.2) for _ in range(50))))
            until = time.monotonic() + 7  # past the two heartbeats after which either side gives the other up
            while time.monotonic() < until:
                source.keep_alive()
                time.sleep(0.1)
            source.settle(deliveries)
            assert source.take(0.5) == []


def test_a_consumer_whose_subscription_was_lost_without_a_word_subscribes_again(rabbitmq_server: str) -> None:
    settings = Settings(broker_url=rabbitmq_server, queue_prefix=scratch_prefix(), heartbeat_s=0.1)
    with scratch_queues(settings), closing(Publisher(settings)) as publisher, closing(consumer(settings)) as source:
        for tag in source._consumer._active_tags.values():
            source._consumer.channel.basic_cancel(tag)
        publisher.publish([seen("w")])
        assert len(take(source, 1)) == 1


def test_a_silent_broker_times_out_and_is_closed_without_a_handshake(
    rabbitmq_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.publisher.CONFIRM_TIMEOUT_S", 0.5)
    with Proxy(rabbitmq_server) as proxy:
        settings = Settings(broker_url=proxy.url, queue_prefix=scratch_prefix())
        with scratch_queues(settings.model_copy(update={"broker_url": SecretStr(rabbitmq_server)})):
            publisher, source = Publisher(settings), consumer(settings)
            publisher.publish([seen("before")])
            proxy.freeze()
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                publisher.publish([seen("lost?")])
            publisher.close()
            source.close()
            assert time.monotonic() - began < 30, "it would wait for as long as the broker is silent"


def test_the_queues_of_a_worker_that_has_gone_are_removed(database_url: str) -> None:
    settings = Settings(broker_url=database_url.replace("postgresql", "pgmq", 1), queue_prefix=scratch_prefix())
    topology = Topology(settings.queue_prefix)
    connection = connect(settings)
    try:
        for node in ("gone", "there"):
            topology.cancel_queue(node, is_exclusive=False)(connection.default_channel).declare()
    finally:
        connection.release()
    forget_listeners(settings, ["gone", "never-was"])
    with psycopg.connect(database_url) as database:
        queues = {row[0] for row in database.execute("SELECT queue_name FROM pgmq.list_queues()")}
    assert [each for each in queues if "cancels" in each] == [f"{settings.queue_prefix}_cancels_there"]
    with closing(Publisher(settings)) as publisher:
        publisher.publish([CancelWork(problem_id=uuid4(), epoch=1)])


def test_many_threads_share_a_publisher(settings: Settings) -> None:
    with closing(SharedPublisher(settings)) as publisher:
        futures = [publisher.publish(seen(f"w{index}")) for index in range(50)]
        for future in futures:
            assert future.result(30) is None
    with closing(consumer(settings)) as source:
        assert len(set(take(source, 50))) == 50
    with pytest.raises(BrokerUnavailable):
        publisher.publish(seen("too late")).result(5)


def test_dead_letters_keep_bytes_that_are_not_text(settings: Settings) -> None:
    with closing(Publisher(settings)) as publisher:
        publisher.publish([DeadLetter("prm", b"\x00\xff{", "not JSON")])
    connection = connect(settings)
    try:
        topology = Topology(settings.queue_prefix)
        topology.declare(connection.default_channel)
        message = topology.dead_letters("prm")(connection.default_channel).get(no_ack=True)
        assert message is not None
        assert bytes(message.body) == b"\x00\xff{"
    finally:
        connection.release()


@pytest.mark.parametrize("url", ["redis://localhost", "localhost:5672", "pgmq://%zz", "pgmq://postgres@localhost:5432"])
def test_a_url_of_an_unknown_broker_is_refused(url: str) -> None:
    with pytest.raises(BadBrokerUrl):
        connect(Settings(broker_url=url))


@pytest.mark.parametrize("url", ["amqp://guest:guest@127.0.0.1:1//", "pgmq://postgres@127.0.0.1:1/postgres"])
def test_an_unreachable_broker_raises(url: str) -> None:
    with pytest.raises(BrokerUnavailable):
        connect(Settings(broker_url=url))


def test_a_wrong_password_and_an_unknown_virtual_host_are_refused(rabbitmq_server: str) -> None:
    server = urlsplit(rabbitmq_server)
    host = server.netloc.rpartition("@")[2]
    for url in (f"amqp://guest:wrong@{host}{server.path}", urlunsplit(server._replace(path="/unknown"))):
        with pytest.raises(BrokerRefused):
            connect(Settings(broker_url=SecretStr(url)))


@pytest.mark.parametrize("entity", ["queue", "exchange"])
def test_a_queue_or_exchange_with_other_arguments_is_refused(rabbitmq_server: str, entity: str) -> None:
    settings = Settings(broker_url=SecretStr(rabbitmq_server), queue_prefix=scratch_prefix())
    with scratch_queues(settings):
        connection = connect(settings)
        if entity == "queue":
            Queue(f"{settings.queue_prefix}.events", durable=True)(connection.default_channel).declare()
        else:
            Exchange(settings.queue_prefix, type="topic")(connection.default_channel).declare()
        connection.release()
        with pytest.raises(QueueDiffers), closing(Publisher(settings)) as publisher:
            publisher.publish([seen("w")])
        with pytest.raises(QueueDiffers):
            consumer(settings)


@pytest.mark.parametrize("role", [["services.orchestrator"], ["services.generator", "small"], ["services.prm"]])
def test_a_role_waits_for_unreachable_servers_and_stops_on_sigterm(role: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text("{}")
    environment = {
        **os.environ, "TRIM_DATABASE_URL": "postgresql://postgres@127.0.0.1:1/x",
        "TRIM_BROKER_URL": "amqp://guest:guest@127.0.0.1:1//", "TRIM_ENGINE": "scripted", "TRIM_SCRIPT": str(script),
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", *role], env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    waited = next(line for line in process.stderr if "awaited" in line)
    assert "unavailable" in waited
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=800)
    assert "Traceback" not in rest


def test_a_broker_that_accepts_no_messages_is_named_as_blocked(
    rabbitmq_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alarm would block all tests on the server, so the test plays its notification."""
    alarmed = Settings(broker_url=rabbitmq_server, queue_prefix=scratch_prefix())
    with scratch_queues(alarmed), closing(Publisher(alarmed)) as publisher:
        publisher.publish([seen("before")])
        connection = publisher._connection
        assert connection is not None
        monkeypatch.setattr(connection, "drain_events", lambda **_: connection._connection._on_blocked(), raising=False)
        with pytest.raises(BrokerBlocked, match="accepts no messages"):
            publisher.publish([seen("blocked")])
        publisher.publish([seen("after")])


def test_a_message_that_the_broker_refuses_for_its_size_is_named(
    rabbitmq_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is one of the whole server, so the test plays its refusal."""
    limited = Settings(broker_url=rabbitmq_server, queue_prefix=scratch_prefix())
    refusal = PreconditionFailed("PRECONDITION_FAILED - message size 5000 larger than configured max size 1000")

    def refuse(**_: object) -> None:
        raise refusal

    with scratch_queues(limited), closing(Publisher(limited)) as publisher:
        publisher.publish([seen("before")])
        monkeypatch.setattr(publisher._connection, "drain_events", refuse, raising=False)
        with pytest.raises(MessageTooLarge, match="max_message_size"):
            publisher.publish([seen("large")])
        publisher.publish([seen("after")])

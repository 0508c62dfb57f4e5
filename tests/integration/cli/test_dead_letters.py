"""`trim dead-letters` on both brokers: what is listed, shown, replayed and discarded, and what stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.app import app
from cli.dead_letters import NoSuchLetter
from shared.bus import amqp_dead_letters
from shared.bus.broker_state import read_broker
from shared.bus.connection import connect
from shared.bus.consumer import BatchConsumer
from shared.bus.dead_letters import opened
from shared.bus.publisher import Publisher
from shared.bus.topology import COMMAND, REASON_HEADER, DeadLetter, QueueRole, Topology
from shared.domain.options import Sampling
from shared.domain.roles import Author
from shared.messages import GenerateSteps, encode
from shared.settings import Settings
from stack.scratch import scratch_prefix, scratch_queues

pytestmark = pytest.mark.servers

Trim = Callable[..., Result]


@pytest.fixture
def settings(module_servers: dict[str, str]) -> Iterator[Settings]:
    made = Settings.model_validate({"broker_url": module_servers["broker_url"], "queue_prefix": scratch_prefix()})
    with scratch_queues(made):
        yield made


@pytest.fixture
def trim(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Trim:
    monkeypatch.setenv("TRIM_BROKER_URL", settings.require_broker_url())
    monkeypatch.setenv("TRIM_QUEUE_PREFIX", settings.queue_prefix)
    monkeypatch.delenv("TRIM_DATABASE_URL", raising=False)

    def run(*arguments: str, fails: bool = False) -> Result:
        done = CliRunner().invoke(app, ["dead-letters", *arguments], catch_exceptions=False)
        assert (done.exit_code != 0) == fails, done.output
        return done

    return run


def bury(settings: Settings, role: QueueRole, *bodies: bytes, reason: str = "it is broken") -> None:
    with closing(Publisher(settings)) as publisher:
        publisher.publish([DeadLetter(role, body, reason) for body in bodies])


def command(question: str = "How many?") -> GenerateSteps:
    now = datetime.now(UTC)
    return GenerateSteps(
        id=uuid4(), problem_id=uuid4(), epoch=0, issued_at=now, expires_at=now + timedelta(minutes=1),
        request_number=0, step_timeout_s=1, question=question, prefix=(), author=Author.SMALL, max_steps=1,
        max_step_tokens=9, max_tokens=9, results_to="events", sampling=Sampling(),
    )  # fmt: skip


def stored(settings: Settings, role: QueueRole) -> list[bytes]:
    with opened(settings) as letters:
        return [each.body for each in letters.read(role, limit=1000)]


def listed(trim: Trim, *arguments: str) -> Any:
    return json.loads(trim("list", "--json", *arguments).stdout)


def test_letters_are_listed_with_reason_time_kind_problem_and_size(trim: Trim, settings: Settings) -> None:
    assert trim("list").stderr == "There are no dead letters.\n"
    asked = command()
    bury(settings, "small", encode(asked), reason="it does not belong here")
    bury(settings, "events", b"\xff{", b"[]")
    found = listed(trim)
    assert found["total"] == 3
    first = found["letters"][0]
    at = datetime.fromisoformat(first.pop("at"))
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
    assert first == {
        "id": str(asked.id), "queue": "small", "reason": "rejected", "detail": "it does not belong here",
        "kind": "generate_steps", "problem_id": str(asked.problem_id), "bytes": len(encode(asked)),
    }  # fmt: skip
    rows = trim("list", "-n", "2")
    assert rows.stdout.splitlines()[0].split()[:3] == [str(asked.id)[:8], "small", "rejected"]
    assert f"problem {asked.problem_id}: it does not belong here" in rows.stdout
    assert rows.stderr == "1 more; -n shows more, --queue only those of one queue.\n"
    assert listed(trim, "--queue", "large") == {"total": 0, "letters": []}


def test_looking_changes_neither_the_letters_nor_their_order(trim: Trim, settings: Settings) -> None:
    bodies = [f"[{index}]".encode() for index in range(60)]
    bury(settings, "prm", *bodies)
    for _ in range(3):
        assert listed(trim, "-n", "7")["total"] == 60
    assert stored(settings, "prm") == bodies
    with opened(settings) as letters:  # A reader that stops early returns what it holds as well.
        next(letters.read("prm", limit=1000))
    assert stored(settings, "prm") == bodies


def test_a_letter_is_shown_without_the_texts_of_its_problem_unless_they_are_asked_for(
    trim: Trim, settings: Settings
) -> None:
    asked = command("What is the secret?")
    bury(settings, "small", encode(asked), b"secret \x1b[31m")
    shown = trim("show", str(asked.id)[:8]).stdout
    assert "(19 characters)" in shown
    assert "secret" not in shown
    assert "What is the secret?" in trim("show", str(asked.id), "--texts").stdout
    other = next(each["id"] for each in listed(trim)["letters"] if each["kind"] is None)
    assert "secret" not in trim("show", other).stdout
    assert "secret \\x1b[31m" in trim("show", other, "--texts").stdout
    assert json.loads(trim("show", str(asked.id), "--json").stdout)["content"]["kind"] == "generate_steps"


def test_an_id_that_no_letter_has_and_one_that_is_none_are_refused(trim: Trim, settings: Settings) -> None:
    bury(settings, "small", b"{}")
    with pytest.raises(NoSuchLetter, match="among the first 5000 of each queue"):
        trim("show", "00000000")
    assert trim("show", "x", fails=True).exit_code == 2
    assert trim("discard", fails=True).exit_code == 2
    assert trim("discard", "--all", "00000000", fails=True).exit_code == 2
    assert trim("replay", "--all", "--yes", fails=True).exit_code == 2
    assert "add --yes" in trim("discard", "--all", fails=True).stderr
    assert stored(settings, "small") == [b"{}"]


def test_replayed_letters_are_on_their_queue_as_they_were_and_no_longer_here(trim: Trim, settings: Settings) -> None:
    first, second = command(), command()
    bury(settings, "small", encode(first), encode(second), encode(first))
    assert trim("replay", str(first.id), "--yes").stderr.endswith("Replayed 2 of 2.\n")
    assert stored(settings, "small") == [encode(second)]
    connection = connect(settings)
    try:
        queue = Topology(settings.queue_prefix).queue("small")(connection.default_channel)
        messages = [queue.get(no_ack=True) for _ in range(2)]
        assert queue.get(no_ack=True) is None
    finally:
        connection.release()
    for each in messages:
        assert each is not None
        body = each.body
        assert (body.encode() if isinstance(body, str) else bytes(body)) == encode(first)
        assert each.headers["task"] == COMMAND
        assert not {"x-death", REASON_HEADER} & each.headers.keys()


def test_all_events_are_replayed_in_their_order_and_taken_by_the_orchestrators_consumer(
    trim: Trim, settings: Settings
) -> None:
    bodies = [b"{", b'"x"', b"\xff"]
    bury(settings, "events", *bodies)
    bury(settings, "prm", b"[]")
    trim("replay", "--all", "--queue", "events", "--yes")
    with closing(BatchConsumer(settings, "events", batch=10, linger_s=0.1)) as consumer:
        taken: list[bytes] = []
        while len(taken) < len(bodies):
            deliveries = consumer.take(10)
            assert deliveries
            taken += [each.body for each in deliveries]
            consumer.settle(deliveries)
    assert taken == bodies
    assert (stored(settings, "events"), stored(settings, "prm")) == ([], [b"[]"])


def test_chosen_letters_are_discarded_and_then_all(trim: Trim, settings: Settings) -> None:
    bury(settings, "large", b"[1]", b"[2]", b"[3]")
    bury(settings, "events", b"{}")
    second = listed(trim, "--queue", "large")["letters"][1]["id"]
    trim("discard", second, "--yes")
    assert stored(settings, "large") == [b"[1]", b"[3]"]
    assert trim("discard", "--all", "--yes").stderr.endswith("Discarded 3 of 3.\n")
    assert listed(trim)["total"] == 0


def test_a_letter_that_could_not_be_published_stays(
    trim: Trim, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    bury(settings, "small", b"[1]")
    monkeypatch.setattr(Publisher, "publish", cut)
    assert trim("replay", "--all", "--queue", "small", "--yes", fails=True).stderr.endswith("Replayed 0 of 1.\n")
    assert stored(settings, "small") == [b"[1]"]


def test_a_letter_that_the_broker_would_drop_after_another_look_is_renewed(
    rabbitmq_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ 4 drops a message after 20 returns; the count of each starts again before."""
    settings = Settings.model_validate({"broker_url": rabbitmq_server, "queue_prefix": scratch_prefix()})
    bodies = [b"[1]", b"\xff[2]"]
    with scratch_queues(settings):
        bury(settings, "small", *bodies, reason="kept")
        counts = []
        for _ in range(amqp_dead_letters.RENEW_AT + 3):
            with opened(settings) as letters:
                found = list(letters.read("small", limit=10))
            assert [each.body for each in found] == bodies
            assert {each.detail for each in found} == {"kept"}
            counts.append(max(int(each.headers.get("x-delivery-count", 0)) for each in found))
        assert max(counts) == amqp_dead_letters.RENEW_AT
        assert counts[-1] < amqp_dead_letters.RENEW_AT


def test_a_broker_that_does_not_answer_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIM_BROKER_URL", "amqp://guest:hunter2@127.0.0.1:1//")
    done = CliRunner().invoke(app, ["dead-letters", "list"])
    assert done.exit_code == 3
    assert done.stderr.startswith("trim: The broker does not answer; check TRIM_BROKER_URL")
    assert "hunter2" not in done.output


def test_reading_creates_no_queue(settings: Settings) -> None:
    with opened(settings) as letters:
        assert set(letters.count().values()) == {0}
        assert list(letters.read("small", limit=5)) == []
    assert not any(each.exists for each in read_broker(settings).queues)

"""Signed messages: what has no valid signature is taken by nobody, and changes nothing."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import pytest
from pydantic import SecretStr, ValidationError

from services.orchestrator.receiving import receive
from shared.bus.broadcasts import BroadcastListener
from shared.bus.consumer import Delivery
from shared.bus.signing import SIGNATURE_HEADER, UNSIGNED, MessageKeys, signature_of
from shared.bus.topology import REASON_HEADER, DeadLetter, Topology
from shared.messages import CancelWork, StepsGenerated, encode
from shared.settings import Settings
from tests.unit.worker.working import golden

OLD, NEW = "o" * 32, "n" * 32
BODY = encode(golden(StepsGenerated))


def keys(*named: tuple[str, str], deployment: str = "trim") -> MessageKeys:
    return MessageKeys(dict(named), deployment=deployment)


def signed(by: MessageKeys, body: bytes = BODY) -> Delivery:
    return Delivery(body=body, is_redelivered=False, deliveries=1, signature=by.sign(body).get(SIGNATURE_HEADER))


def test_a_message_is_taken_if_any_key_of_the_receiver_signed_it() -> None:
    """So keys are replaced one process at a time."""
    steps = [keys(("old", OLD)), keys(("old", OLD), ("new", NEW)), keys(("new", NEW), ("old", OLD)), keys(("new", NEW))]
    for before, after in pairwise(steps):
        for sender, receiver in ((before, after), (after, before), (after, after)):
            heard, buried = receive([signed(sender)], receiver)
            assert (len(heard), buried) == (1, [])


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        (None, "it is not signed, which TRIM_MESSAGE_KEYS requires"),
        ("", "it is signed with the key '', which TRIM_MESSAGE_KEYS lacks"),
        ("other:00", "it is signed with the key 'other', which TRIM_MESSAGE_KEYS lacks"),
        ("new:00", "its signature with the key 'new' is wrong"),
        ("new:ü\ud800", "its signature with the key 'new' is wrong"),
        (keys(("new", OLD)).sign(BODY)[SIGNATURE_HEADER], "its signature with the key 'new' is wrong"),
        (keys(("new", NEW)).sign(BODY + b" ")[SIGNATURE_HEADER], "its signature with the key 'new' is wrong"),
        (
            keys(("new", NEW), deployment="other").sign(BODY)[SIGNATURE_HEADER],
            "its signature with the key 'new' is wrong",
        ),
    ],
)
def test_a_forged_event_becomes_a_dead_letter_with_the_reason_and_its_own_signature(
    signature: str | None, reason: str
) -> None:
    forged = Delivery(body=BODY, is_redelivered=False, deliveries=1, signature=signature)
    heard, [letter] = receive([forged], keys(("new", NEW)))
    assert heard == []
    assert letter == DeadLetter("events", BODY, reason, signature)
    headers = Topology("trim").address(letter).headers
    assert headers[REASON_HEADER] == reason
    assert headers.get(SIGNATURE_HEADER) == signature, "who publishes it again must not make it valid"


def test_without_keys_nothing_is_signed_and_everything_is_taken() -> None:
    assert UNSIGNED.sign(BODY) == {}
    for delivery in (signed(UNSIGNED), signed(keys(("new", NEW)))):
        heard, buried = receive([delivery])
        assert (len(heard), buried) == (1, [])


def test_a_header_that_is_no_text_is_no_signature() -> None:
    assert signature_of(Mock(headers={SIGNATURE_HEADER: 7})) is None
    assert signature_of(Mock(headers=None)) is None


def test_a_worker_drops_a_forged_broadcast(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []
    listener = BroadcastListener.__new__(BroadcastListener)
    listener._hear, listener._keys = heard.append, keys(("new", NEW))
    body = encode(golden(CancelWork))
    with caplog.at_level(logging.WARNING):
        listener._on_message(Mock(body=body, headers={}))
    assert heard == []
    listener._on_message(Mock(body=body, headers=listener._keys.sign(body)))
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("value", "explanation"),
    [
        ("secret", "key 1 is not `name:secret`"),
        (f"new:{NEW},", "key 2 is not `name:secret`"),
        (f"New:{NEW}", "key 1 is not `name:secret`"),
        ("new:short", "the secret of the key 'new' has fewer than 32 characters"),
        (f"new:{'ü' * 32}", "key 1 is not `name:secret`"),
        (f"new:{NEW},new:{OLD}", "two keys have the name 'new'"),
    ],
)
def test_a_wrong_setting_is_explained_without_its_secrets(value: str, explanation: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(message_keys=SecretStr(value))
    [error] = refused.value.errors()
    assert explanation in error["msg"]
    assert NEW not in error["msg"]


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_setting_is_none(value: str | None) -> None:
    assert MessageKeys.of(Settings.model_validate({"message_keys": value})).sign(BODY) == {}


def test_keys_may_stand_on_lines() -> None:
    written = Settings(message_keys=SecretStr(f"new:{NEW}\nold:{OLD}\n"), queue_prefix="trim")
    assert MessageKeys.of(written).sign(BODY) == keys(("new", NEW)).sign(BODY)

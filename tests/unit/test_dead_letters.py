"""Dead letters as values, whatever bytes they hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from cli.terminal import hanging, printable
from shared.bus.dead_letters import Letter, LetterReason, redacted
from shared.bus.pgmq_dead_letters import _content
from shared.bus.topology import BURIED_HEADER, REASON_HEADER, delivered_too_often

ID, PROBLEM = uuid4(), uuid4()


def letter(body: bytes = b"", **headers: Any) -> Letter:
    return Letter(
        role="events", body=body, headers={name.replace("_", "-"): value for name, value in headers.items()}, handle=1
    )


def test_a_letter_has_the_id_the_kind_and_the_problem_of_its_message() -> None:
    found = letter(json.dumps({"id": str(ID), "kind": "steps_scored", "problem_id": str(PROBLEM)}).encode())
    assert (found.id, found.kind, found.problem_id) == (ID, "steps_scored", PROBLEM)


HOSTILE = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "long number": b"9" * 10_000,
    "no object": b"[1]",
    "wrong types": b'{"id": 7, "kind": ["x"], "problem_id": {}}',
    "no ids": b'{"id": "../etc", "kind": "\\u001b[31m", "problem_id": "x"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_letter_has_an_id_of_its_bytes_and_nothing_else(body: bytes) -> None:
    found = letter(body)
    assert (found.kind, found.problem_id, found.detail, found.at) == (None, None, None, None)
    assert found.reason is LetterReason.UNKNOWN
    assert found.id == letter(body).id != letter(body + b" ").id


MOMENT = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "reason", "at"),
    [
        ({REASON_HEADER: "its kind is unknown", BURIED_HEADER: MOMENT.isoformat()}, "rejected", MOMENT),
        ({REASON_HEADER: delivered_too_often(21)}, "delivery_limit", None),
        ({REASON_HEADER: 7, BURIED_HEADER: "yesterday"}, "unknown", None),
        ({"x-death": [{"reason": "delivery_limit", "time": MOMENT.replace(tzinfo=None)}]}, "delivery_limit", MOMENT),
        ({"x-death": [{"reason": "expired", "time": MOMENT}]}, "expired", MOMENT),
        ({"x-death": [{"reason": "maxlen"}]}, "maxlen", None),
        ({"x-death": [{"reason": "made_up", "time": 7}]}, "unknown", None),
        ({"x-death": "x"}, "unknown", None),
        ({"x-death": []}, "unknown", None),
    ],
)
def test_headers_tell_reason_and_time(headers: dict[str, Any], reason: str, at: datetime | None) -> None:
    found = letter(**headers)
    assert (found.reason, found.at) == (reason, at)


def test_texts_of_problems_are_left_out_and_numbers_and_ids_are_not() -> None:
    command = {
        "id": str(ID),
        "question": "How?",
        "prefix": ["One.", "Two."],
        "drafts": [{"text": "Three.", "tokens": 3}],
        "worker": "small-0",
        "odd": "x" * 81,
    }
    assert redacted(command) == {
        "id": str(ID),
        "question": "(4 characters)",
        "prefix": ["(4 characters)", "(4 characters)"],
        "drafts": [{"text": "(6 characters)", "tokens": 3}],
        "worker": "small-0",
        "odd": "(81 characters)",
    }


@pytest.mark.parametrize(
    ("stored", "body"),
    [
        ({"body": "e30=", "headers": {"a": 1}, "properties": {"body_encoding": "base64"}}, b"{}"),
        ({"body": "{}"}, b"{}"),
        ({"body": "not base64", "properties": {"body_encoding": "base64"}}, b"not base64"),
        ({"body": 7}, b'{"body": 7}'),
        ("text", b'"text"'),
        (None, b"null"),
    ],
)
def test_what_any_program_stored_in_pgmq_has_a_body(stored: Any, body: bytes) -> None:
    assert _content(stored)[0] == body


def test_a_terminal_gets_no_control_characters() -> None:
    assert printable("a\x1b[31mb\u202e\n") == "a\\x1b[31mb\\u202e\\n"


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_a_sentence_fits_into_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = hanging("ok     ", "word " * 60, indent=7).splitlines()
    assert max(map(len, lines)) <= min(columns, 120)
    assert all(line.startswith(" " * 7) for line in lines[1:])

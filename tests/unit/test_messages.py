"""The contract between the services: every message that was ever sent must still decode."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.messages import (
    CancelWork,
    GenerateSteps,
    Message,
    StepsGenerated,
    StepsScored,
    UndecodableMessage,
    decode,
    derive_id,
    encode,
)

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.json"))
NEGATIVE = {"role": "small", "tokens": -1, "opens_call": True}
KINDS = {kind.model_fields["kind"].default: kind for kind in get_args(Message)}


def golden(kind: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((GOLDEN / f"{kind}.v1.json").read_bytes())
    return values


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_an_example_of_every_version(kind: str) -> None:
    versions = get_args(KINDS[kind].model_fields["version"].annotation)
    assert {f"{kind}.v{version}" for version in versions} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_example_decodes_and_encodes_to_the_same(path: Path) -> None:
    message = decode(path.read_bytes())
    assert type(message) is KINDS[path.stem.split(".")[0]]
    assert json.loads(encode(message)) == json.loads(path.read_bytes())
    assert decode(encode(message)) == message


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_example_uses_every_field(path: Path) -> None:
    message = decode(path.read_bytes())
    assert set(json.loads(path.read_bytes())) == set(type(message).model_fields)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_fields_of_a_newer_sender_are_ignored(path: Path) -> None:
    values = json.loads(path.read_bytes())
    newer = deepcopy(values) | {"added_later": {"x": 1}}
    for draft in newer.get("drafts", []):
        draft["added_later"] = 1
    assert decode(json.dumps(newer)) == decode(path.read_bytes())


def test_a_generate_command_starts_where_its_prefix_ends() -> None:
    command = decode(json.dumps(golden("generate_steps")))
    assert isinstance(command, GenerateSteps)
    assert command.first_step == 2


def test_a_command_that_leaves_out_steps_has_a_version_that_older_workers_refuse() -> None:
    command = decode(json.dumps(golden("generate_steps")))
    assert isinstance(command, GenerateSteps)
    short = command.with_prefix(command.prefix, omit=1)
    assert (command.version, short.version, short.with_prefix(command.prefix).version) == (1, 2, 1)
    assert (short.first_step, short.prefix) == (command.first_step, command.prefix[1:])
    assert decode(encode(short)) == short


@pytest.mark.parametrize(
    "field", ["kind", "version", "reports_stretch", "unscored_steps", "reports_confidence", "prefix_scores"]
)
def test_only_fields_with_a_default_may_be_missing(field: str) -> None:
    for kind, values in ((kind, golden(kind)) for kind in KINDS):
        if field not in values:
            continue
        del values[field]
        if field == "kind":
            with pytest.raises(UndecodableMessage):
                decode(json.dumps(values))
        else:
            assert type(decode(json.dumps(values))) is KINDS[kind]


def test_a_draft_of_an_older_worker_has_no_log_probabilities() -> None:
    values = golden("steps_generated")
    del values["drafts"][0]["mean_logprob"], values["drafts"][0]["min_logprob"]
    message = decode(json.dumps(values))
    assert isinstance(message, StepsGenerated)
    assert (message.drafts[0].mean_logprob, message.drafts[0].min_logprob) == (None, None)


def test_a_score_may_be_missing_but_not_out_of_range() -> None:
    values = golden("steps_scored")
    values["scores"] = [None]
    message = decode(json.dumps(values))
    assert isinstance(message, StepsScored)
    assert message.scores == (None,)
    values["scores"] = [1.01]
    with pytest.raises(UndecodableMessage, match=r"steps_scored\.scores\.0"):
        decode(json.dumps(values))


SECRET = "TheSubmittersSecret"


def broken(kind: str, *path: str | int, value: object) -> bytes:
    """Break one field of an example."""
    values: Any = golden(kind)
    place = values
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return json.dumps(values).encode()


def without(kind: str, field: str) -> bytes:
    values = golden(kind)
    del values[field]
    return json.dumps(values).encode()


UNDECODABLE = {
    "nothing": b"",
    "bad JSON": b'{"kind": "' + SECRET.encode(),
    "trailing text": (GOLDEN / "cancel_work.v1.json").read_bytes() + SECRET.encode(),
    "not UTF-8": b'{"kind": "\xff\xfe' + SECRET.encode() + b'"}',
    "half a character": b'{"kind": "\\ud800' + SECRET.encode() + b'"}',
    "no object": json.dumps([SECRET]).encode(),
    "too deep": b"[" * 100_000,
    "no kind": without("steps_generated", "kind"),
    "unknown kind": broken("steps_generated", "kind", value=SECRET),
    "unknown version": broken("steps_generated", "version", value=2),
    "missing field": without("steps_generated", "drafts"),
    "missing problem": without("cancel_work", "problem_id"),
    "no drafts": broken("steps_generated", "drafts", value=[]),
    "wrong id": broken("steps_generated", "id", value=SECRET),
    "wrong time": broken("generate_steps", "issued_at", value=SECRET),
    "wrong author": broken("generate_steps", "author", value=SECRET),
    "wrong role": broken("work_failed", "role", value=SECRET),
    "negative unfinished work": broken("work_failed", "unfinished", value=NEGATIVE),
    "no step": broken("generate_steps", "max_steps", value=0),
    "no time": broken("generate_steps", "step_timeout_s", value=0),
    "negative epoch": broken("cancel_work", "epoch", value=-1),
    "negative index": broken("steps_generated", "drafts", 0, "index", value=-1),
    "negative tokens": broken("steps_scored", "drafts", 0, "tokens", value=-1),
    "negative PRM tokens": broken("steps_scored", "scoring", "tokens", value=-1),
    "NaN score": broken("steps_scored", "scores", 0, value=float("nan")),
    "NaN in a draft": broken("steps_scored", "drafts", 0, "waited_ms", value=float("nan")),
    "infinite log-probability": broken("steps_generated", "drafts", 0, "min_logprob", value=float("-inf")),
    "infinity in a scoring": broken("steps_scored", "scoring", "worked_ms", value=float("inf")),
    "infinite timeout": broken("generate_steps", "step_timeout_s", value=float("inf")),
}


@pytest.mark.parametrize("raw", UNDECODABLE.values(), ids=UNDECODABLE)
def test_a_message_outside_the_contract_is_refused_with_its_bytes_and_without_its_content(raw: bytes) -> None:
    with pytest.raises(UndecodableMessage) as caught:
        decode(raw)
    assert caught.value.raw == raw
    assert caught.value.code == "undecodable_message"
    assert not caught.value.retryable
    assert caught.value.reason
    assert SECRET not in str(caught.value)
    assert len(caught.value.reason) < 200


def test_undecodable_bytes_are_kept_unchanged() -> None:
    with pytest.raises(UndecodableMessage) as caught:
        decode("\ud800")
    assert caught.value.raw == b"\xed\xa0\x80"


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_random_bytes_raise_only_undecodable(raw: bytes) -> None:
    with pytest.raises(UndecodableMessage) as caught:
        decode(raw)
    assert caught.value.raw == raw


def test_derived_ids_are_stable_and_differ_by_every_part() -> None:
    problem = UUID("00000000-0000-4000-8000-000000000001")
    assert derive_id(problem, 0, 3, "generate_steps", "small", 1) == UUID("62e8314a-2a95-5056-8e40-65ab754faadb")
    parts = [(problem, 0, 3), (problem, 3, 0), (problem, 0, 4), (problem, 0), (problem, 0, 3, "x"), (0, problem, 3)]
    assert len({derive_id(*each) for each in parts}) == len(parts)
    assert derive_id(problem, 0, 3) == derive_id(str(problem), "0", "3")


def test_messages_are_values_that_cannot_be_changed() -> None:
    message = decode((GOLDEN / "cancel_work.v1.json").read_bytes())
    assert isinstance(message, CancelWork)
    with pytest.raises(ValueError, match="frozen"):
        message.epoch = 5  # type: ignore[misc]

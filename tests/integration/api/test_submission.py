"""Submissions: their fields, their defaults, and what is refused."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta

import pytest
from starlette.testclient import TestClient

from services.api.app import create_app
from shared.domain.ledger import Ledger
from shared.domain.options import Limits, Options, Sampling, Wrappers
from shared.policies.registry import POLICIES
from shared.settings import Settings
from shared.store.database import Database
from tests.integration.api.calls import JSON, PATIENCE_S, QUESTION, is_refusal, submit, wrong_fields

pytestmark = pytest.mark.servers


def test_a_problem_without_options_gets_the_defaults_of_the_domain(api: TestClient) -> None:
    response = api.post("/v1/problems", json=QUESTION)
    made = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/problems/{made['id']}" == made["links"]["self"]
    assert (made["status"], made["epoch"], made["steps"], made["escalations"]) == ("queued", 0, 0, 0)
    assert made["policy"] == {
        "name": "threshold",
        "revision": 2,
        "parameters": {"threshold": 0.5},
        "version": None,
        "wrappers": asdict(Wrappers()),
    }
    assert made["lookahead"] == Options().lookahead
    assert made["limits"] == {each.name: getattr(Limits(), each.name) for each in fields(Limits)}
    assert {**made["sampling"], "seed": 0} == {each.name: getattr(Sampling(), each.name) for each in fields(Sampling)}
    assert made["step_timeout_s"] == Options().step_timeout_s
    assert made["max_attempts"] == Options().max_attempts
    assert made["deadline_at"] is None
    assert made["ledger"] == {each.name: 0 for each in fields(Ledger)}
    assert api.get(response.headers["location"]).json() == made


def test_every_option_is_returned_as_it_was_sent(api: TestClient) -> None:
    given = {
        "reference": "42",
        "lookahead": "unlimited",
        "limits": {"max_steps": 200, "max_step_tokens": 8192, "max_tokens": 131_072},
        "sampling": {"temperature": 2.0, "top_p": 1.0, "top_k": 0, "seed": 2**53},
        "step_timeout_s": 0.1,
        "max_attempts": 20,
    }
    policy = {
        "name": "random",
        "parameters": {"p": 0.25},
        "wrappers": {"budget": 300, "take_over": True, "epsilon": 0.1},
    }
    made = submit(api, **given, policy=policy, deadline_s=3600)
    assert {name: made[name] for name in given} == given
    assert made["policy"] == policy | {"revision": POLICIES["random"].revision, "version": None}
    left = datetime.fromisoformat(made["deadline_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


def test_an_omitted_seed_is_drawn_once_and_recorded(api: TestClient) -> None:
    seeds = [submit(api)["sampling"]["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3
    assert all(0 <= seed <= 2**53 for seed in seeds)


def test_a_submission_and_a_cancel_wake_the_orchestrators(api: TestClient, database: Database) -> None:
    with closing(database.listen()) as listening:
        made = submit(api)
        assert list(listening.notifies(timeout=PATIENCE_S, stop_after=1))
        api.post(f"/v1/problems/{made['id']}/cancel")
        assert list(listening.notifies(timeout=PATIENCE_S, stop_after=1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("question", ""),
        ("question", " \n\t"),
        ("question", "x" * 501),
        ("question", "a\x00b"),
        ("question", 5),
        ("question", None),
        ("reference", "a\x00b"),
        ("reference", "x" * 1001),
        ("lookahead", -1),
        ("lookahead", 65),
        ("lookahead", 1.5),
        ("lookahead", "all"),
        ("limits", {"max_steps": 0}),
        ("limits", {"max_steps": 201}),
        ("limits", {"max_steps": -(10**30)}),
        ("limits", {"max_step_tokens": 8193}),
        ("limits", {"max_tokens": 131_073}),
        ("limits", {"max_words": 5}),
        ("sampling", {"temperature": -0.1}),
        ("sampling", {"temperature": 2.1}),
        ("sampling", {"top_p": 0}),
        ("sampling", {"top_p": 1.1}),
        ("sampling", {"top_k": 1001}),
        ("sampling", {"seed": -1}),
        ("sampling", {"seed": 2**53 + 1}),
        ("step_timeout_s", 0.05),
        ("step_timeout_s", 3601),
        ("max_attempts", 0),
        ("max_attempts", 21),
        ("deadline_s", 0),
        ("deadline_s", -1),
        ("deadline_s", 1e300),
        ("qestion", "a typing error"),
        ("policy", "threshold"),
    ],
)
def test_a_field_out_of_bounds_is_refused_by_its_name(api: TestClient, field: str, value: object) -> None:
    wrong = wrong_fields(api.post("/v1/problems", json=QUESTION | {field: value}))
    inner = next(iter(value)) if isinstance(value, dict) else ""
    assert field in wrong
    assert inner in wrong


@pytest.mark.parametrize("value", [-1, 65, 1.5, 10**30, True, "all", "4", "", None, [], {}])
def test_a_wrong_lookahead_is_refused_with_one_sentence_in_every_place(api: TestClient, value: object) -> None:
    wrong = {"lookahead": value}
    for path, body, field in (
        ("/v1/problems", QUESTION | wrong, "body.lookahead"),
        ("/v1/batches", {"problems": [QUESTION], "defaults": wrong}, "body.defaults.lookahead"),
        ("/v1/batches", {"problems": [QUESTION, QUESTION | wrong]}, "body.problems.1.lookahead"),
    ):
        refused = is_refusal(api.post(path, json=body), 422, "invalid_request")
        assert refused["detail"] == f'{field}: Input should be a whole number from 0 to 64, or "unlimited".'
        assert [error["field"] for error in refused["errors"]] == [field]


@pytest.mark.parametrize("value", [0, 64, "unlimited"])
def test_a_lookahead_may_be_any_number_to_64_or_unlimited(api: TestClient, value: object) -> None:
    assert submit(api, lookahead=value)["lookahead"] == value


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ['"sampling": {"temperature": %s}', '"step_timeout_s": %s', '"deadline_s": %s'])
def test_a_number_that_is_not_finite_is_refused(api: TestClient, place: str, number: str) -> None:
    body = '{"question": "What?", ' + place % number + "}"
    response = api.post("/v1/problems", content=body, headers=JSON)
    assert wrong_fields(response)


def test_an_unknown_policy_is_refused_with_the_names_of_the_known_ones(api: TestClient) -> None:
    response = api.post("/v1/problems", json=QUESTION | {"policy": {"name": "dice"}})
    assert "policy" in wrong_fields(response, "unknown_policy")
    assert all(name in response.json()["detail"] for name in POLICIES)


@pytest.mark.parametrize("parameters", [{"threshold": 1.5}, {"treshold": 0.5}, {"threshold": "high"}])
def test_a_wrong_parameter_of_a_policy_is_refused_by_its_name(api: TestClient, parameters: dict[str, object]) -> None:
    policy = {"name": "threshold", "parameters": parameters}
    response = api.post("/v1/problems", json=QUESTION | {"policy": policy})
    assert "policy" in wrong_fields(response, "bad_policy_parameters")
    assert next(iter(parameters)) in response.json()["detail"]


@pytest.mark.parametrize("wrappers", [{"budget": -1}, {"epsilon": 1.5}, {"take_over": "yes"}, {"budgets": 1}])
def test_a_wrong_wrapper_is_refused_by_its_name(api: TestClient, wrappers: dict[str, object]) -> None:
    response = api.post("/v1/problems", json=QUESTION | {"policy": {"name": "threshold", "wrappers": wrappers}})
    assert next(iter(wrappers)) in str(wrong_fields(response))


def test_a_wrapper_that_does_not_fit_the_policy_is_refused(api: TestClient) -> None:
    policy = {"name": "cascade", "wrappers": {"epsilon": 0.1}}
    response = api.post("/v1/problems", json=QUESTION | {"policy": policy})
    assert "policy" in wrong_fields(response, "bad_policy_parameters")
    assert "epsilon" in response.json()["detail"]


def test_a_parameter_that_is_no_number_is_refused(api: TestClient) -> None:
    body = '{"question": "What?", "policy": {"name": "threshold", "parameters": {"threshold": NaN}}}'
    assert wrong_fields(api.post("/v1/problems", content=body, headers=JSON), "bad_policy_parameters")


@pytest.mark.parametrize(
    "body",
    [
        r'{"question": "half a pair: \ud83d"}',
        r'{"question": "What?", "half \ud83d": 1}',
        r'{"question": "What?", "policy": {"name": "half \ud83d"}}',
        r'{"question": "What?", "policy": {"name": "threshold", "parameters": {"half \ud83d": 1}}}',
        r'{"question": "What?", "policy": {"name": "nul \u0000"}}',
    ],
)
def test_half_of_a_surrogate_pair_is_refused_in_every_place(api: TestClient, body: str) -> None:
    response = api.post("/v1/problems", content=body, headers=JSON)
    assert response.status_code == 422, response.text
    is_refusal(response, 422, response.json()["code"])
    batch = api.post("/v1/batches", content=f'{{"problems": [{body}]}}', headers=JSON)
    assert batch.status_code == 422, batch.text
    assert any("problems.0" in error["field"] for error in batch.json()["errors"])


def test_text_in_any_script_is_returned_unchanged(api: TestClient) -> None:
    question = "¿Cuánto es 6×7? 六乘七 🧮\u2028 \\frac{1}{2}\r\n<script>"
    assert submit(api, question=question)["question"] == question


@pytest.mark.parametrize(("length", "status"), [(500, 201), (501, 422)])
def test_the_length_of_a_question_is_counted_in_characters(api: TestClient, length: int, status: int) -> None:
    response = api.post("/v1/problems", json={"question": "\N{ABACUS}" * length})
    assert response.status_code == status
    if status == 422:
        refused = is_refusal(response, 422, "invalid_request")
        assert refused["detail"] == "body.question: The question has 501 characters; the maximum is 500."


def test_the_longest_question_fits_into_the_smallest_body_limit_however_it_is_escaped(database: Database) -> None:
    settings = Settings(max_question_chars=5_000, max_body_bytes=125_536)
    api = TestClient(create_app(settings, database))
    escaped = json.dumps({"question": "\N{ABACUS}" * 5_000, "reference": "\N{ABACUS}" * 1_000})
    assert len(escaped) > 12 * 5_000
    assert api.post("/v1/problems", content=escaped, headers=JSON).status_code == 201

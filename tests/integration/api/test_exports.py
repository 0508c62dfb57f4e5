"""Exports: what each format has, that it is complete or seen to break off, and what it holds meanwhile."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from services.api.exports import portions
from services.api.exports.tables import COLUMNS
from shared.store.database import Database
from tests.integration.api.calls import (
    add_decision,
    add_step,
    change,
    is_refusal,
    read_ids,
    submit,
    submit_batch,
    wrong_fields,
)

pytestmark = pytest.mark.servers

EXPORT = "/v1/problems/export"
ENDED: dict[str, Any] = {"status": "succeeded", "verdict": "correct", "stop_reason": "final_answer"}


def export(api: TestClient, format_: str, **query: str) -> httpx2.Response:
    response = api.get(EXPORT, params={"format": format_, **query})
    assert response.status_code == 200, response.text
    assert response.headers["content-disposition"].startswith('attachment; filename="trim-problems-')
    assert response.headers["x-content-type-options"] == "nosniff"
    return response


def read_lines(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/jsonl"
    assert response.text == "" or response.text.endswith("\n")
    return [json.loads(each) for each in response.text.splitlines()]


@pytest.fixture
def solved(api: TestClient, database: Database) -> Mapping[str, Any]:
    """A problem with three steps, of which the large model wrote the second, alone in its batch."""
    [problem_id] = submit_batch(api, 1)["problem_ids"]
    for step, author in enumerate(("small", "large", "small")):
        add_step(database, problem_id, step, author=author, model=f"{author}-model")
    now = datetime.now(UTC)
    change(database, problem_id, **ENDED, answer="-5", step_count=3, started_at=now, finished_at=now)
    return api.get(f"/v1/problems/{problem_id}").json()  # type: ignore[no-any-return]


def test_all_problems_are_exported_as_the_listing_shows_them(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "PROBLEMS", 2)
    batch = submit_batch(api, 5)
    lines = read_lines(export(api, "jsonl", batch_id=batch["id"]))
    assert lines == api.get(f"/v1/problems?batch_id={batch['id']}").json()["items"]
    submit(api)
    assert [each["id"] for each in read_lines(export(api, "jsonl"))] == read_ids(api, "/v1/problems")


def test_an_export_has_the_conditions_of_the_listing(
    api: TestClient, database: Database, solved: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.finding.LOOKED_AT", 2)
    query = {"status": "succeeded", "verdict": "correct", "escalated": "false"}
    assert [each["id"] for each in read_lines(export(api, "jsonl", **query))] == read_ids(api, "/v1/problems", **query)
    assert read_lines(export(api, "jsonl", batch_id=str(UUID(int=1)))) == []
    for format_ in ("preferences", "prm800k"):
        assert {each["problem_id"] for each in read_lines(export(api, format_, batch_id=solved["batch_id"]))} == {
            solved["id"]
        }
    assert wrong_fields(api.get(f"{EXPORT}?verdict=right")) == "query.verdict"
    assert wrong_fields(api.get(f"{EXPORT}?format=xml")) == "query.format"
    assert wrong_fields(api.get(f"{EXPORT}?limit=5")) == "query.limit"


def test_csv_has_every_column_and_no_formula(api: TestClient, database: Database, solved: Mapping[str, Any]) -> None:
    change(database, solved["id"], question='=HYPERLINK("http://x"), "quoted"\nnext line', reference="-x + 1")
    response = export(api, "csv", batch_id=solved["batch_id"])
    assert response.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert response.text.endswith("\r\n")
    [header, row] = csv.reader(io.StringIO(response.text, newline=""))
    assert header == list(COLUMNS)
    values = dict(zip(header, row, strict=True))
    assert values["question"] == '\'=HYPERLINK("http://x"), "quoted"\nnext line'
    assert (values["answer"], values["reference"]) == ("-5", "'-x + 1"), "a number is no formula"
    assert (values["id"], values["steps"], values["arm"], values["batch_index"]) == (solved["id"], "3", "", "0")
    assert datetime.fromisoformat(values["finished_at"]) == datetime.fromisoformat(solved["finished_at"])
    assert export(api, "csv", batch_id=str(UUID(int=1))).text.count("\r\n") == 1


def test_parquet_has_the_same_rows_with_types(
    api: TestClient, solved: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(portions, "PROBLEMS", 2)
    batch = submit_batch(api, 5)
    for batch_id, count in ((batch["id"], 5), (solved["batch_id"], 1), (str(UUID(int=1)), 0)):
        table = parquet.read_table(io.BytesIO(export(api, "parquet", batch_id=batch_id).content))
        assert (table.num_rows, table.column_names) == (count, list(COLUMNS))
    [row] = parquet.read_table(io.BytesIO(export(api, "parquet", batch_id=solved["batch_id"]).content)).to_pylist()
    assert (row["answer"], row["steps"], row["arm"]) == ("-5", 3, None)
    assert row["finished_at"] == datetime.fromisoformat(solved["finished_at"])


def test_parquet_without_its_library_names_what_to_install(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = is_refusal(api.get(f"{EXPORT}?format=parquet"), 501, "format_unavailable")
    assert "trim-service[exports]" in refused["detail"]


def test_preferences_have_the_draft_that_was_escalated_beside_the_large_step(
    api: TestClient, database: Database, solved: Mapping[str, Any]
) -> None:
    [pair] = read_lines(export(api, "preferences", batch_id=solved["batch_id"]))
    assert pair == {
        "prompt": "What is 0 plus 1?\n\nStep 0.\n\n",
        "chosen": "Step 1.",
        "rejected": "Draft 1.",
        "chosen_score": 0.75,
        "rejected_score": 0.25,
        "chosen_model": "large-model",
        "rejected_model": "small-model",
        "problem_id": solved["id"],
        "step": 1,
        "decision": 1,
        "draft_id": pair["draft_id"],
        "verdict": "correct",
    }
    found = api.get(f"/v1/problems/{solved['id']}/decisions").json()["items"][1]
    assert found["draft"]["id"] == pair["draft_id"]


def test_step_labels_have_the_form_of_prm800k(api: TestClient, database: Database, solved: Mapping[str, Any]) -> None:
    add_decision(database, solved["id"], number=3, step=1, draft_text="Worse.", observation={"score": None})
    [labelled] = read_lines(export(api, "prm800k", batch_id=solved["batch_id"]))
    steps = labelled["label"]["steps"]
    # How a reader of PRM800K rebuilds the solution.
    chosen = [each["completions"][each["chosen_completion"]]["text"] for each in steps]
    assert chosen == ["Step 0.", "Step 1.", "Step 2."]
    assert [[each["text"] for each in step["completions"]] for step in steps] == [
        ["Step 0."], ["Draft 1.", "Worse.", "Step 1."], ["Step 2."],
    ]  # fmt: skip
    assert [each["rating"] for each in steps[1]["completions"]] == [-1, None, 1]
    assert [each["author"] for each in steps[1]["completions"]] == ["small", "small", "large"]
    assert labelled["question"]["problem"] == "What is 0 plus 1?"
    assert labelled["question"]["pre_generated_steps"] == ["Step 0.", "Step 1.", "Step 2."]
    assert (labelled["label"]["finish_reason"], labelled["labeler"]) == ("solution", "prm-model")


@pytest.mark.parametrize("format_", ["preferences", "prm800k"])
def test_training_data_leaves_out_what_is_open_or_erased(
    api: TestClient, database: Database, solved: Mapping[str, Any], format_: str
) -> None:
    change(database, solved["id"], status="running", finished_at=None, stop_reason=None, verdict=None)
    assert read_lines(export(api, format_, batch_id=solved["batch_id"])) == []
    change(database, solved["id"], **ENDED, finished_at=datetime.now(UTC))
    assert read_lines(export(api, format_, batch_id=solved["batch_id"])) != []
    with database.session() as session:
        session.execute(text("SELECT erase_problem(:id)"), {"id": solved["id"]})
    assert read_lines(export(api, format_, batch_id=solved["batch_id"])) == []


def test_an_export_without_a_database_is_refused_before_it_begins(dead_api: TestClient) -> None:
    for format_ in ("jsonl", "csv", "preferences"):
        is_refusal(dead_api.get(f"{EXPORT}?format={format_}"), 503, "database_unavailable")

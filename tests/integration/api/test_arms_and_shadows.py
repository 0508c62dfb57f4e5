"""Submissions with a split or with shadows: what is drawn, stored, shown, listed and refused."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from shared.domain.arms import draw_arm
from shared.domain.artefacts import ModelIds
from shared.policies.artefact import Artefact
from shared.store import policy_versions
from shared.store.database import Database
from shared.store.shadow_tables import ShadowDecisionRow
from tests.integration.api.calls import (
    QUESTION,
    add_decision,
    change,
    is_refusal,
    read_ids,
    submit,
    submit_batch,
    wrong_fields,
)

pytestmark = pytest.mark.servers

SMALL = {"name": "a", "weight": 3, "policy": {"name": "small-only"}}
LARGE = {"name": "b", "policy": {"name": "large-only"}}
SPLIT = [SMALL, LARGE]
POLICY_OF = {"a": "small-only", "b": "large-only"}
RANDOM = {"name": "random", "parameters": {"p": 0.5}}


def register(database: Database) -> None:
    """Register a version of `pomdp`, if there is none."""
    made = Artefact.make(
        {"x": np.array([0.0])}, policy="pomdp",
        models=ModelIds(small="small@1", large="large@1", prm="prm@1"),
        data={}, settings={}, metrics={}, created_at=datetime(2026, 1, 2, tzinfo=UTC), command="trim",
    ).encoded  # fmt: skip
    with database.session() as session:
        policy_versions.register(session, made)


# --- splits -----------------------------------------------------------------------------------------------------------


def test_a_problem_gets_the_arm_that_its_id_draws_and_the_policy_of_this_arm(api: TestClient) -> None:
    made = [submit(api, split=SPLIT) for _ in range(12)]
    for each in made:
        assert each["arm"] == "ab"[draw_arm([3, 1], UUID(each["id"]))]
        assert each["policy"]["name"] == POLICY_OF[each["arm"]]
        assert api.get(f"/v1/problems/{each['id']}").json()["arm"] == each["arm"]
    assert submit(api)["arm"] is None


def test_a_retry_returns_the_problem_with_its_arm(api: TestClient) -> None:
    send = {"json": QUESTION | {"split": SPLIT}, "headers": {"Idempotency-Key": "split"}}
    first, again = api.post("/v1/problems", **send), api.post("/v1/problems", **send)
    assert (first.status_code, again.status_code) == (201, 200)
    assert (first.json()["id"], first.json()["arm"]) == (again.json()["id"], again.json()["arm"])


def test_problems_are_listed_by_arm_and_a_batch_is_summed_up_by_arm(api: TestClient, database: Database) -> None:
    split = [{**SMALL, "name": "summed-a"}, {**LARGE, "name": "summed-b"}]
    batches = [submit_batch(api, 5, split=split) for _ in range(3)]
    problems = [problem for each in batches for problem in api.get(each["links"]["problems"]).json()["items"]]
    for arm in ("summed-a", "summed-b"):
        of_arm = [each["id"] for each in problems if each["arm"] == arm][::-1]
        assert read_ids(api, "/v1/problems", arm=arm, limit=2) == of_arm
        assert read_ids(api, "/v1/problems", arm=arm, status="queued", policy="large-only", limit=2) == (
            of_arm if arm == "summed-b" else []
        )
        within = [each for each in of_arm if each in batches[0]["problem_ids"]]
        assert read_ids(api, "/v1/problems", arm=arm, batch_id=batches[0]["id"]) == within
    assert "arm" in wrong_fields(api.get("/v1/problems?arm=A"))

    for each in batches[0]["problem_ids"]:
        change(database, each, status="succeeded", verdict="correct", large_out=7, step_count=2, escalation_count=1)
    batch = api.get(batches[0]["links"]["self"]).json()
    counts = Counter(each["arm"] for each in problems[:5])
    assert list(batch["arms"]) == sorted(counts)
    for arm, sums in batch["arms"].items():
        count = counts[arm]
        assert (sums["size"], sums["statuses"], sums["verdicts"]) == (count, {"succeeded": count}, {"correct": count})
        assert (sums["steps"], sums["escalations"], sums["ledger"]["large_out"]) == (2 * count, count, 7 * count)
    assert sum(each["ledger"]["large_out"] for each in batch["arms"].values()) == batch["ledger"]["large_out"] == 35
    assert submit_batch(api, 1)["arms"] == {}


def test_a_problem_of_a_batch_replaces_the_split_of_the_defaults_by_its_own_policy_and_the_reverse(
    api: TestClient,
) -> None:
    def policies(defaults: dict[str, Any], *problems: dict[str, Any]) -> list[tuple[str | None, str]]:
        body = {"defaults": defaults, "problems": [QUESTION | each for each in problems]}
        made = api.post("/v1/batches", json=body).json()
        shown = api.get(made["links"]["problems"]).json()["items"]
        return [(each["arm"], each["policy"]["name"]) for each in shown]

    [split, own, none] = policies({"split": SPLIT}, {}, {"policy": RANDOM}, {"split": None})
    assert split in POLICY_OF.items()
    assert (own, none) == ((None, "random"), (None, "threshold"))
    [own, split] = policies({"policy": RANDOM}, {}, {"split": SPLIT})
    assert own == (None, "random")
    assert split in POLICY_OF.items()


@pytest.mark.parametrize(
    ("split", "field"),
    [
        ([], "body.split"),
        ([SMALL], "body.split"),
        ([SMALL, SMALL], "body.split"),
        ([{**LARGE, "name": f"arm-{number}"} for number in range(9)], "body.split"),
        ([SMALL, {**LARGE, "weight": 0}], "body.split.1.weight"),
        ([SMALL, {**LARGE, "weight": -1}], "body.split.1.weight"),
        ([SMALL, {**LARGE, "weight": "half"}], "body.split.1.weight"),
        ([SMALL, {**LARGE, "weight": 1e7}], "body.split.1.weight"),
        ([SMALL, {**LARGE, "name": "B b"}], "body.split.1.name"),
        ([SMALL, {"name": "b"}], "body.split.1.policy"),
        ([SMALL, {**LARGE, "policy": {"name": "threshold", "version": 1}}], "body.split.1.policy.version"),
    ],
)
def test_a_wrong_split_is_refused_by_its_place(api: TestClient, split: object, field: str) -> None:
    assert field in wrong_fields(api.post("/v1/problems", json=QUESTION | {"split": split})).split()


def test_a_wrong_policy_of_an_arm_is_refused_by_its_place(api: TestClient) -> None:
    split = [SMALL, {**LARGE, "policy": {"name": "dice"}}]
    response = api.post("/v1/problems", json=QUESTION | {"split": split})
    assert wrong_fields(response, "unknown_policy") == "body.split.1.policy"


def test_a_policy_beside_a_split_is_refused(api: TestClient) -> None:
    both = {"policy": RANDOM, "split": SPLIT}
    assert wrong_fields(api.post("/v1/problems", json=QUESTION | both)) == "body.split"
    in_defaults = {"defaults": both, "problems": [QUESTION]}
    assert wrong_fields(api.post("/v1/batches", json=in_defaults)) == "body.defaults.split"
    in_problem = {"problems": [QUESTION, QUESTION | both]}
    assert wrong_fields(api.post("/v1/batches", json=in_problem)) == "body.problems.1.split"


def test_a_split_with_an_arm_that_has_no_version_is_refused_whichever_arm_is_drawn(api: TestClient) -> None:
    split = [{**SMALL, "weight": 1e6}, {**LARGE, "weight": 1e-6, "policy": {"name": "aggregate"}}]
    is_refusal(api.post("/v1/problems", json=QUESTION | {"split": split}), 422, "no_default_policy_version")


# --- shadows ----------------------------------------------------------------------------------------------------------


def test_a_problem_shows_its_shadows_with_the_versions_that_were_chosen(api: TestClient, database: Database) -> None:
    register(database)
    shown = submit(api, shadows=[{"name": "pomdp"}, {**RANDOM, "wrappers": {"epsilon": 0.25}}])["shadows"]
    assert [(each["name"], each["version"]) for each in shown] == [("pomdp", 1), ("random", None)]
    assert (shown[0]["parameters"]["belief"], shown[1]["parameters"]) == ("filter", {"p": 0.5})
    assert shown[1]["wrappers"] == {"budget": None, "take_over": False, "epsilon": 0.25}
    assert submit(api)["shadows"] == []


@pytest.mark.parametrize(("shadows", "are_reported"), [([RANDOM], False), ([RANDOM, {"name": "confidence"}], True)])
def test_drafts_report_log_probabilities_if_a_shadow_reads_them(
    api: TestClient, database: Database, shadows: list[dict[str, Any]], *, are_reported: bool
) -> None:
    problem_id = submit(api, shadows=shadows)["id"]
    with database.session() as session:
        options = session.execute(text("SELECT options FROM problems WHERE id = :id"), {"id": problem_id}).scalar_one()
    assert options["plan"]["confidence"] is are_reported


def test_the_shadows_of_a_batch_are_those_of_its_problems_or_of_its_defaults(api: TestClient) -> None:
    body = {"defaults": {"shadows": [RANDOM]}, "problems": [QUESTION, QUESTION | {"shadows": []}]}
    made = api.post("/v1/batches", json=body).json()
    shown = api.get(made["links"]["problems"]).json()["items"]
    assert [len(each["shadows"]) for each in shown] == [1, 0]


@pytest.mark.parametrize(
    ("choices", "field", "code"),
    [
        ({"shadows": [RANDOM] * 5}, "body.shadows", "invalid_request"),
        ({"shadows": [RANDOM, {"name": "dice"}]}, "body.shadows.1", "unknown_policy"),
        ({"shadows": [{"name": "random", "parameters": {"p": 2}}]}, "body.shadows.0", "bad_policy_parameters"),
        ({"shadows": [{"name": "random", "version": 1}]}, "body.shadows.0.version", "invalid_request"),
        ({"shadows": [{**RANDOM, "wrappers": {"budget": 9}}]}, "body.shadows.0", "unfit_shadow"),
        ({"shadows": [{"name": "cascade"}]}, "body.shadows.0", "unfit_shadow"),
        ({"policy": {"name": "small-only"}, "shadows": [RANDOM, {}]}, "body.shadows.1", "unfit_shadow"),
        ({"split": SPLIT, "shadows": [RANDOM]}, "body.shadows.0", "unfit_shadow"),
    ],
)
def test_a_wrong_shadow_is_refused_by_its_place(
    api: TestClient, choices: dict[str, Any], field: str, code: str
) -> None:
    assert wrong_fields(api.post("/v1/problems", json=QUESTION | choices), code) == field


def test_a_shadow_of_a_policy_without_a_version_is_refused(api: TestClient) -> None:
    body = QUESTION | {"shadows": [{"name": "aggregate"}]}
    is_refusal(api.post("/v1/problems", json=body), 422, "no_default_policy_version")


def add_shadow_decision(database: Database, problem_id: str, **values: Any) -> None:
    row = {
        "problem_id": UUID(problem_id), "decided_at": datetime.now(UTC), "policy": "random", "policy_revision": 2,
        "policy_digest": "0123456789abcdef", "action": "accept", "reason": "lot_not_drawn", "value": 0.75,
        "compared_with": 0.5, "numbers": {"belief": 0.5}, "propensity": 1.0, "agrees": False,
    }  # fmt: skip
    with database.session() as session:
        session.execute(insert(ShadowDecisionRow).values(row | values))


SKIPPED = {**dict.fromkeys(("action", "reason", "value", "compared_with", "propensity", "agrees")), "numbers": {}}


def test_what_shadows_decided_is_shown_beside_each_decision(api: TestClient, database: Database) -> None:
    made = submit(api)
    for number in range(3):
        add_decision(database, made["id"], number=number, step=number)
        add_shadow_decision(database, made["id"], number=number, shadow=0)
    skipped = {**SKIPPED, "skipped": "no_time", "detail": "There was no time."}
    add_shadow_decision(database, made["id"], number=1, shadow=1, **skipped)
    page = api.get(f"/v1/problems/{made['id']}/decisions?limit=2").json()
    rest = api.get(f"/v1/problems/{made['id']}/decisions?limit=2&cursor={page['next_cursor']}").json()
    decisions = page["items"] + rest["items"]
    assert [[each["shadow"] for each in decision["shadows"]] for decision in decisions] == [[0], [0, 1], [0]]
    policy = {"name": "random", "revision": 2, "parameters_digest": "0123456789abcdef", "version": None}
    assert decisions[1]["shadows"] == [
        {
            "shadow": 0, "policy": policy, "action": "accept", "reason": "lot_not_drawn", "value": 0.75,
            "compared_with": 0.5, "numbers": {"belief": 0.5}, "propensity": 1.0, "agrees": False, "skipped": None,
            "detail": None,
        },
        {"shadow": 1, "policy": policy, **skipped},
    ]  # fmt: skip
    audited = api.get(f"/v1/problems/{made['id']}/audit").json()["items"]
    assert [each["decision"] for each in audited] == decisions


@pytest.mark.parametrize(
    "statement",
    ["UPDATE shadow_decisions SET agrees = true", "DELETE FROM shadow_decisions", "TRUNCATE shadow_decisions"],
)
def test_what_shadows_decided_never_changes(api: TestClient, database: Database, statement: str) -> None:
    add_shadow_decision(database, submit(api)["id"], number=0, shadow=0)
    with pytest.raises(DBAPIError, match="append-only"), database.session() as session:
        session.execute(text(statement))


@pytest.mark.parametrize("values", [SKIPPED, {"skipped": "no_time"}, {**SKIPPED, "skipped": "bored"}])
def test_a_shadow_decides_or_is_skipped_for_a_known_reason(
    api: TestClient, database: Database, values: dict[str, Any]
) -> None:
    made = submit(api)
    with pytest.raises(DBAPIError, match="ck_shadow_decisions"):
        add_shadow_decision(database, made["id"], number=0, shadow=0, **values)

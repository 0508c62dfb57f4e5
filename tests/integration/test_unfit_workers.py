"""A worker whose server is away or returns what it cannot use reports that, waits for it, and stops at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chaos.deployment import Deployment, deployed
from chaos.proxy import Proxy
from shared.domain.roles import WorkerRole
from tests.integration.model_servers import STEPS, model_servers, settings_for

pytestmark = pytest.mark.servers


def unfit(deployment: Deployment) -> Mapping[str, Any]:
    rows = deployment.rows("SELECT * FROM processes WHERE role = 'small'")
    return rows[0] if rows else {"unfit_code": "not_seen_yet"}


def test_a_worker_without_its_server_reports_that_begins_once_it_is_there_and_stops_at_once(
    tmp_path: Path, database_url: str, broker_url: str
) -> None:
    with model_servers(dict.fromkeys(WorkerRole, 0.02)) as servers, Proxy(broker_url) as proxy:
        server = servers[WorkerRole.SMALL]
        server.leave()
        with deployed(
            tmp_path, database_url=database_url, broker_url=proxy.url, script={}, problems_may_wait=True,
            stop_grace_s="60", **settings_for(servers),
        ) as deployment:  # fmt: skip
            deployment.until(lambda: unfit(deployment)["unfit_code"] == "engine_unavailable")
            ids = deployment.submit(3, policy={"name": "small-only"}, lookahead=0)
            proxy.cut()
            deployment.until(lambda: "publication_failed" in deployment.log("small"))
            server.recover()
            proxy.mend()
            rows = deployment.finish(ids)
            assert {(row["status"], row["attempts"], row["request_count"]) for row in rows} == {("succeeded", 0, STEPS)}
            assert server.twice == 0
            deployment.until(lambda: unfit(deployment)["unfit_code"] is None)

            server.leave()
            deployment.submit(3, policy={"name": "small-only"}, lookahead=0)
            deployment.until(lambda: unfit(deployment)["unfit_code"] == "engine_unavailable")
            assert deployment.dead_letters()["small"] == 0
            deployment.roles.check()
            began = time.monotonic()
            assert deployment.roles.stop("small", timeout_s=60) == 0
            assert time.monotonic() - began < 20


def test_a_prm_that_returns_too_few_scores_takes_no_commands_and_reports_the_reason(
    tmp_path: Path, database_url: str, broker_url: str
) -> None:
    script = {"default": [{"small": "So it is \\boxed{7}."}], "missing_scores": 1}
    with deployed(
        tmp_path, database_url=database_url, broker_url=broker_url, script=script, problems_may_wait=True
    ) as deployment:
        [problem_id] = deployment.submit(1)
        query = "SELECT 1 FROM processes WHERE role = 'prm' AND unfit_code = 'bad_scores'"
        deployment.until(lambda: deployment.rows(query))
        [row] = deployment.problems([problem_id])
    assert row["status"] in {"queued", "running"}

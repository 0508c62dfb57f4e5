"""Somebody deletes exchanges and queues while the service works: they come back, and no problem is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.deployment import deployed
from tests.integration.deleting import SCRIPT, check_workers_hear_cancels, delete_each_under_load

pytestmark = pytest.mark.servers


def test_problems_are_solved_whatever_is_deleted(tmp_path: Path, database_url: str, rabbitmq_server: str) -> None:
    with deployed(
        tmp_path, database_url=database_url, broker_url=rabbitmq_server, script=SCRIPT, concurrency="1"
    ) as deployment:
        delete_each_under_load(deployment, rabbitmq_server)
        check_workers_hear_cancels(deployment)


def test_a_worker_whose_subscription_was_lost_without_a_word_subscribes_again(
    tmp_path: Path, database_url: str, rabbitmq_server: str
) -> None:
    deaf = {"small": ["-m", "tests.integration.deaf_worker", "small"]}
    with deployed(
        tmp_path, database_url=database_url, broker_url=rabbitmq_server, script=SCRIPT, more_roles=deaf,
        heartbeat_s="0.3",
    ) as deployment:  # fmt: skip
        rows = deployment.finish(deployment.submit(2), patience_s=45)
    assert {(row["status"], row["attempts"]) for row in rows} == {("succeeded", 0)}

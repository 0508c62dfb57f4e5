"""A worker that is frozen loses its commands to another one; what both bought is in the ledger."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from chaos.deployment import Deployment, deployed
from tests.integration.test_stopping import SLOW, STEPS, begin_stretch
from tests.scraping import Scrape

pytestmark = pytest.mark.servers

WORKERS = {
    "small": ["-m", "tests.integration.impatient_worker", "small"],
    "other": ["-m", "services.generator", "small"],
}
SOON_S = 45.0
"""Much longer than the heartbeat of the impatient worker, and shorter than those of RabbitMQ and Celery by default."""


def bought(deployment: Deployment) -> float:
    scrapes = [Scrape.of(deployment.metrics_address(role)) for role in WORKERS]
    return sum(each.sum("trim_engine_tokens_total", role="small", kind="decoded") for each in scrapes)


def test_the_commands_of_a_frozen_worker_are_carried_out_by_another(
    tmp_path: Path, database_url: str, rabbitmq_server: str
) -> None:
    with deployed(
        tmp_path, database_url=database_url, broker_url=rabbitmq_server, script=SLOW, more_roles=WORKERS,
        metrics_port="0", stop_grace_s="20",
    ) as deployment:  # fmt: skip
        assert deployment.roles.stop("other") == 0
        problem_id = begin_stretch(deployment)
        os.kill(deployment.roles.pids()["small"], signal.SIGSTOP)
        deployment.roles.start("other")
        [row] = deployment.finish([problem_id], patience_s=SOON_S)
        assert (row["status"], row["request_count"], row["attempts"]) == ("succeeded", 1, 0)
        solution = deployment.trajectory(problem_id)

        os.kill(deployment.roles.pids()["small"], signal.SIGCONT)
        deployment.until(lambda: Scrape.of(deployment.metrics_address("small"))["trim_commands_running"] == 0)
        paid = bought(deployment)

        def booked() -> int:
            [row] = deployment.problems([problem_id])
            return int(row["small_kept"] + row["small_wasted"] + row["small_discarded"])

        deployment.until(lambda: booked() == paid)
        [woken] = deployment.problems([problem_id])
        assert paid > woken["small_kept"] == row["small_kept"], "what was bought twice is wasted"
        assert deployment.trajectory(problem_id) == solution
        assert len(deployment.rows("SELECT 1 FROM decisions")) == len(solution) == STEPS
        assert deployment.finish(deployment.submit(1))[0]["status"] == "succeeded", "it goes on with its work"

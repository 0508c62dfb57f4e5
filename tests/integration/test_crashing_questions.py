"""A question that ends every worker fails its own problem after a few deaths, and no other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.crashing_worker import CRASHES
from chaos.deployment import deployed
from shared.worker.quarantine import ALONE_AT, GUILTY_AT

pytestmark = pytest.mark.servers

INNOCENTS = 100
SCRIPT = {"default": [{"small": "One.", "small_ms": 60}, {"small": "So it is \\boxed{7}.", "small_ms": 60}]}


def test_a_question_that_ends_workers_fails_its_problem_alone(
    tmp_path: Path, database_url: str, rabbitmq_server: str
) -> None:
    small = ["-m", "chaos.crashing_worker", "small"]
    with deployed(
        tmp_path, database_url=database_url, broker_url=rabbitmq_server, script=SCRIPT, concurrency="8", stall_s="600",
        more_roles={"small": small, "small-2": small, "small-3": small},
    ) as deployment:  # fmt: skip
        questions = [{"question": f"What is problem {number}?"} for number in range(INNOCENTS)]
        questions.insert(INNOCENTS // 4, {"question": CRASHES})
        ids = deployment.submit_all(questions, policy={"name": "small-only"}, lookahead=0, step_timeout_s=600)
        guilty = ids.pop(INNOCENTS // 4)
        deaths: list[str] = []

        def have_ended() -> bool:
            deaths.extend(deployment.roles.mend())
            return not deployment.rows("SELECT 1 FROM problems WHERE finished_at IS NULL")

        deployment.until(have_ended)
        [row] = deployment.problems([guilty])
        assert (row["status"], row["failure_code"]) == ("failed", "crashes_workers")
        assert {row["status"] for row in deployment.problems(ids)} == {"succeeded"}
        assert GUILTY_AT <= len(deaths) <= ALONE_AT + GUILTY_AT  # A connection that is lost besides counts as well.
        assert set(deployment.dead_letters().values()) == {0}

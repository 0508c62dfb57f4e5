"""The broker's connections break under load: commands that are redelivered are not carried out again."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.deployment import Deployment, deployed
from chaos.proxy import Proxy
from tests.scraping import Scrape

pytestmark = pytest.mark.servers

AT_ONCE = 12
STEPS = 8
BLIPS = 2
SCRIPT = {"default": [*({"small": f"Step {index}, in some words.", "large_ms": 150} for index in range(STEPS - 1)),
                      {"small": "So it is \\boxed{7}."}]}  # fmt: skip


def break_connections(proxy: Proxy, deployment: Deployment) -> None:
    """Break all connections in the middle of the work, and wait until the worker consumes again."""
    steps = len(deployment.rows("SELECT 1 FROM steps"))
    deployment.until(lambda: len(deployment.rows("SELECT 1 FROM steps")) >= steps + STEPS)
    consuming = deployment.log("large").count("condition=broker detail='Commands are consumed")
    proxy.cut()
    proxy.mend()
    deployment.until(
        lambda: deployment.log("large").count("condition=broker detail='Commands are consumed") > consuming
    )


def test_no_large_step_is_bought_twice_after_blips_of_the_broker(
    tmp_path: Path, database_url: str, rabbitmq_server: str
) -> None:
    with (
        Proxy(rabbitmq_server) as proxy,
        deployed(
            tmp_path, database_url=database_url, broker_url=proxy.url, script=SCRIPT, metrics_port="0",
            concurrency=str(AT_ONCE),
        ) as deployment,
    ):  # fmt: skip
        ids = deployment.submit(AT_ONCE * (2 + 2 * BLIPS), policy={"name": "large-only"})
        for _ in range(BLIPS):
            break_connections(proxy, deployment)
        assert any(row["status"] == "running" for row in deployment.problems(ids)), "too late"
        deployment.finish(ids)
        address = deployment.metrics_address("large")
        deployment.until(lambda: Scrape.of(address)["trim_commands_running"] == 0)
        bought = Scrape.of(address).sum("trim_engine_tokens_total", role="large", kind="decoded")
        kept = sum(row["large_out"] for row in deployment.problems(ids))
        deployment.until(lambda: kept + sum(row["large_wasted"] for row in deployment.problems(ids)) == bought)
    assert {row["status"] for row in deployment.problems(ids)} == {"succeeded"}
    assert bought <= 1.01 * kept

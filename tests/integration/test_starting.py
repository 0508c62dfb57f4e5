"""Roles start whatever the broker does: its connections are cut at every moment of their start."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest

from stack.roles import ROLES
from tests.integration.deployment import deployed
from tests.integration.proxy import Proxy

pytestmark = pytest.mark.servers

ANSWERS = 60
"""More answers than a connection of any role gets until it consumes or publishes."""

HANDSHAKE = 3
"""Answers until a connection is open."""

SCRIPT = {"default": [{"small": "A step."}, {"small": "So it is \\boxed{7}."}]}


@pytest.mark.parametrize(
    "lives",
    [
        pytest.param(range(ANSWERS), id="while-it-waits"),
        # The first connection only finds out whether the broker is there.
        pytest.param([math.inf, *range(HANDSHAKE, ANSWERS)], id="while-it-subscribes"),
    ],
)
def test_roles_start_although_each_of_their_connections_is_cut_one_answer_later(
    tmp_path: Path, database_url: str, rabbitmq_server: str, lives: Iterable[float]
) -> None:
    roles = [role for role in ROLES if role != "api"]  # It has no broker.
    with ExitStack() as running:
        cut = {role: running.enter_context(Proxy(rabbitmq_server, lives=lives)) for role in roles}
        deployment = running.enter_context(
            deployed(
                tmp_path, database_url=database_url, broker_url=rabbitmq_server, script=SCRIPT, heartbeat_s="0.2",
                own={role: {"broker_url": proxy.url} for role, proxy in cut.items()},
                more_roles={role: ["-m", "tests.integration.hasty_role", *ROLES[role][1:]] for role in roles},
            )
        )  # fmt: skip
        pids = deployment.roles.pids()
        rows = deployment.finish(deployment.submit(2, step_timeout_s=2, max_attempts=20))
        deployment.roles.check()
        assert deployment.roles.pids() == pids
        log = "".join(map(deployment.log, roles))
        assert "[warning" in log, "too late"
        assert "Traceback" not in log, log.partition("Traceback")[2][:2000]
    assert {row["status"] for row in rows} == {"succeeded"}

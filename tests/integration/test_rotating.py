"""The users of database and broker are replaced while problems are being solved."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

import migrations
from chaos.cluster import Cluster, private_cluster
from migrations.verifying import verify
from shared.domain.roles import WorkerRole
from shared.settings import Settings
from stack.roles import ROLES
from tests.integration.fleets import Fleet, Load, Service
from tests.integration.pages import shell_blocks
from tests.integration.test_recovery import SCRIPT

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations" / "rotating-credentials.md").read_text()
ADD, CONNECTED, LOCK_OUT, DROP = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
ADD_USER, DELETE_USER = shell_blocks(PAGE)

NEED_PASSWORDS = "cat > $PGDATA/pg_hba.conf; pg_ctl reload > reload.log"
PROBLEMS = [{"question": f"What is problem {index}?", "reference": "7"} for index in range(4)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with private_cluster() as made:
        made.start("")
        made.run(NEED_PASSWORDS, given="local all postgres trust\nlocal all all scram-sha-256\n")
        yield made


def execute(cluster: Cluster, statements: str) -> list[tuple[object, ...]]:
    """Execute statements as the superuser; return the rows of the last one."""
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        cursor = connection.execute(statements.encode())
        return cursor.fetchall() if cursor.description else []


@dataclass(frozen=True)
class Broker:
    """A virtual host of RabbitMQ with one user, whose password is its name; the page calls it trim-small."""

    vhost: str
    user: str

    def run(self, script: str, **environment: str) -> str:
        """Run commands of the page for this user."""
        return shell(script.replace("trim-small", self.user), VHOST=self.vhost, **environment)


@pytest.fixture
def broker(rabbitmq_server: str) -> Iterator[Broker]:
    if shutil.which("rabbitmqctl") is None or make_url(rabbitmq_server).host not in ("127.0.0.1", "localhost"):
        pytest.skip("the commands of the page need rabbitmqctl and RabbitMQ on this machine")
    made = Broker(f"trim_{secrets.token_hex(4)}", f"trim-{secrets.token_hex(4)}")
    made.run('rabbitmqctl add_vhost "$VHOST"; rabbitmqctl add_user trim-small trim-small')
    made.run("rabbitmqctl set_permissions --vhost $VHOST trim-small '.*' '.*' '.*'")
    yield made
    made.run('rabbitmqctl delete_vhost "$VHOST"')
    for user in ("trim-small", "trim-small-2"):
        made.run(f"rabbitmqctl delete_user {user} || true")


def shell(script: str, **environment: str) -> str:
    done = subprocess.run(
        ["sh", "-euc", script], env={"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": "/root"} | environment,
        capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def two_fleets(folder: Path, *environments: dict[str, str]) -> Iterator[list[Fleet]]:
    """Prepare a fleet with each environment; stop them after the block."""
    with ExitStack() as stack:
        named = zip(("first", "second"), environments, strict=True)
        yield [stack.enter_context(Fleet.of(name, ROOT, folder, environment)) for name, environment in named]


def test_credentials_are_rotated_while_problems_are_solved(
    tmp_path: Path, cluster: Cluster, broker: Broker, rabbitmq_server: str
) -> None:
    execute(cluster, "CREATE ROLE trim LOGIN PASSWORD 'old secret'; ALTER DATABASE trim OWNER TO trim")
    server = make_url(rabbitmq_server)

    def environment(user: str, password: str, *, broker_user: str, broker_password: str) -> dict[str, str]:
        database_url = f"postgresql://{user}:{password}@/trim?host={cluster.folder}"
        amqp = f"amqp://{broker_user}:{broker_password}@{server.host}:{server.port}/{broker.vhost}"
        return {
            "TRIM_DATABASE_URL": database_url.replace(" ", "%20"), "TRIM_BROKER_URL": amqp, "TRIM_ENGINE": "scripted",
            "TRIM_SCRIPT": str(tmp_path / "script.json"), "TRIM_HEARTBEAT_S": "1", "TRIM_SWEEP_INTERVAL_S": "0.2",
        }  # fmt: skip

    old = environment("trim", "old secret", broker_user=broker.user, broker_password=broker.user)
    new = environment("trim_2", "new secret", broker_user=f"{broker.user}-2", broker_password="new")
    (tmp_path / "script.json").write_text(json.dumps(SCRIPT))
    migrations.upgrade(old["TRIM_DATABASE_URL"])
    service = Service(cluster.url, PROBLEMS, {"lookahead": 2})
    with two_fleets(tmp_path, old, new) as service.fleets:
        first, second = service.fleets
        for role in ROLES:
            first.roles.start(role)
        service.balanced = [first.api]
        first.api.wait_until_ready(first.roles.check)
        with Load(service) as load:
            execute(cluster, ADD)
            broker.run(ADD_USER, PASSWORD="new", CONFIGURE=".*", WRITE=".*", READ=".*")
            for roles in (("orchestrator",), ("api",), tuple(WorkerRole)):
                service.replace(first, second, roles)
            assert {row[0] for row in execute(cluster, CONNECTED)} == {"trim_2", "postgres"}
            execute(cluster, LOCK_OUT)
            assert f"{broker.user}\t" not in broker.run(DELETE_USER)
            with pytest.raises(psycopg.OperationalError, match="authentication failed"):
                psycopg.connect(old["TRIM_DATABASE_URL"])
            solved = service.count("finished_at IS NOT NULL")
            service.until(lambda: service.count("finished_at IS NOT NULL") > solved + 4)
        assert load.error is None, load.error
        service.until(lambda: service.count("finished_at IS NULL") == 0)

    assert {row["status"] for row in service.rows("SELECT status FROM problems")} == {"succeeded"}
    lines: list[str] = []
    configured = Settings.model_validate(
        {"database_url": new["TRIM_DATABASE_URL"], "broker_url": new["TRIM_BROKER_URL"]}
    )
    assert verify(configured, allow_open=False, tell=lines.append), lines
    migrations.check(new["TRIM_DATABASE_URL"])
    assert execute(cluster, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'") == [("trim",)]
    execute(cluster, DROP)

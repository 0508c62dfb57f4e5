"""Solves problems on the real service: every role is a process, on a separate database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.offline import LIMITS, TIMEOUT_S
from evaluation.study import Trial
from shared.domain.ledger import Ledger
from shared.domain.options import Sampling
from shared.domain.verdict import Verdict
from shared.settings import Settings
from shared.store.database import Database
from stack.client import Api
from stack.policies import register_bundled
from stack.postgres import EmbeddedPostgres
from stack.roles import Roles
from stack.running import free_port, running_roles
from stack.scratch import scratch_database
from stack.solving import solve_with
from stack.state import STATE


@dataclass(frozen=True, slots=True)
class Service:
    """A running service."""

    api: Api
    roles: Roles

    def solve(
        self,
        problems: Sequence[tuple[str, str]],
        policies: Mapping[str, Mapping[str, Any]],
        sampling: Sampling,
        console: Console,
    ) -> dict[str, list[Trial]]:
        """Solve problems with each policy; return the results in their order, by the policy's name.

        A problem that ended without a solution counts as unsolved.

        Args:
            problems: Question and reference of each.
            policies: Policies as the API accepts them, by name.
            sampling: Sampling of tokens.
            console: Console that shows the progress.
        """
        submitted = [{"question": question, "reference": reference} for question, reference in problems]
        choices = {"limits": asdict(LIMITS), "sampling": asdict(sampling), "step_timeout_s": TIMEOUT_S}
        ended = solve_with(policies, submitted, choices, api=self.api, roles=self.roles, console=console)
        for name, batch in ended.items():
            if unsolved := batch["size"] - batch["statuses"].get("succeeded", 0):
                warning = f"{name}: {unsolved} problems ended without a solution; see the logs under {STATE}/logs."
                console.print(warning, soft_wrap=True, highlight=False)
        return {
            name: [
                Trial(
                    is_solved=problem["verdict"] == Verdict.CORRECT,
                    large_tokens=problem["ledger"]["large_out"],
                    ledger=Ledger(**problem["ledger"]),
                )
                for problem in self.api.batch_problems(batch["id"])
            ]
            for name, batch in ended.items()
        }


@contextmanager
def running_service(settings: Settings, folders: Mapping[str, Path]) -> Iterator[Service]:
    """Run the service with given models for the duration of the block; the caller holds the lock of the state folder.

    Database and queues are temporary, on the embedded Postgres: these models must not solve problems that are queued in
    the database of `make serve`. Servers that the environment names are not used.

    Args:
        settings: Settings of this process.
        folders: Model folders of `small`, `large` and `prm`.
    """
    with EmbeddedPostgres(STATE / "postgres") as server_url, scratch_database(server_url) as database_url:
        environment = {
            "TRIM_DATABASE_URL": database_url,
            "TRIM_BROKER_URL": database_url.replace("postgresql", "pgmq", 1),
            "TRIM_API_PORT": str(free_port(settings.api_host, 0)),
            "TRIM_ENGINE": "embedded",
            **{f"TRIM_{name.upper()}_MODEL": str(folder.resolve()) for name, folder in folders.items()},
        }
        with closing(Database(database_url)) as database:
            register_bundled(database)
        with running_roles(settings, environment) as (api, roles):
            yield Service(api, roles)

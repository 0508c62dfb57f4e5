"""Solves the same problems with several policies over REST, and shows the progress of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from shared.domain.status import Status
from stack.client import Api, ApiRefused
from stack.roles import Roles

POLL_S = 0.25
"""Seconds between two reads of a batch: short enough for a progress bar, long enough to cost almost nothing."""


def solve_with(
    policies: Mapping[str, Mapping[str, Any]],
    problems: Sequence[Mapping[str, Any]],
    choices: Mapping[str, Any],
    *,
    api: Api,
    roles: Roles,
    console: Console,
) -> dict[str, dict[str, Any]]:
    """Solve problems with one policy after another, and return the finished batch of each.

    A policy that is fitted to other models than those that are running is left out.

    Args:
        policies: Policies by the name to show.
        problems: Problems as `POST /v1/batches` takes them.
        choices: Options for all problems, without the policy.
        api: The API that solves them.
        roles: Roles that must keep running.
        console: Console that shows the progress.

    Raises:
        RoleEnded: A role ended.
    """
    columns = (TextColumn("{task.description:>14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    ended: dict[str, dict[str, Any]] = {}
    with Progress(*columns, console=console) as progress:
        for title, policy in policies.items():
            try:
                batch = api.submit(problems, {**choices, "policy": policy})
            except ApiRefused as refusal:
                if refusal.reason != "no_default_policy_version":
                    raise
                console.print(f"{title} is left out: it is not fitted to these models.")
                continue
            line = progress.add_task(title, total=len(problems))

            def show(done: int, line: TaskID = line) -> None:
                progress.update(line, completed=done)

            ended[title] = wait_until_ended(batch, api=api, roles=roles, show=show)
    return ended


def wait_until_ended(
    batch_id: str, *, api: Api, roles: Roles, show: Callable[[int], object] = lambda _: None
) -> dict[str, Any]:
    """Wait until all problems of a batch have ended, and return the batch.

    Args:
        batch_id: Id of the batch.
        api: The API that solves it.
        roles: Roles that must keep running.
        show: Receives the number of ended problems after each read.

    Raises:
        RoleEnded: A role ended.
    """
    while True:
        roles.check()
        batch = api.batch(batch_id)
        done = sum(batch["statuses"].get(status, 0) for status in Status if status.is_final)
        show(done)
        if done == batch["size"]:
            return batch
        time.sleep(POLL_S)

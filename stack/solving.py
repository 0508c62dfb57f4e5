"""Solves the same problems with several policies over REST, and shows how far each one is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from stack.client import Api
from stack.roles import Roles

LOOK_EVERY_S = 0.25
"""Often enough for somebody who watches, and seldom enough that the look itself costs next to nothing."""

FINAL = ("succeeded", "failed", "cancelled", "expired")


def solve_with(
    policies: Mapping[str, Mapping[str, Any]],
    problems: Sequence[Mapping[str, Any]],
    choices: Mapping[str, Any],
    *,
    api: Api,
    roles: Roles,
    console: Console,
) -> dict[str, dict[str, Any]]:
    """Solve problems with one policy after another, and return the batch of each as it ended.

    Args:
        policies: By the name that is shown.
        problems: As the API takes them.
        choices: How they are to be solved, whatever the policy.
        api: Where they are submitted.
        roles: Must run until the end.
        console: Where it is shown.

    Raises:
        RoleEnded: A role ended in the middle.
    """
    columns = (TextColumn("{task.description:>14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    ended: dict[str, dict[str, Any]] = {}
    with Progress(*columns, console=console) as progress:
        for title, policy in policies.items():
            line = progress.add_task(title, total=len(problems))
            batch = api.submit(problems, {**choices, "policy": policy})

            def show(done: int, line: TaskID = line) -> None:
                progress.update(line, completed=done)

            ended[title] = wait_until_ended(batch, api=api, roles=roles, show=show)
    return ended


def wait_until_ended(
    batch_id: str, *, api: Api, roles: Roles, show: Callable[[int], object] = lambda _: None
) -> dict[str, Any]:
    """Wait until all problems of a batch have ended; return the batch.

    Args:
        batch_id: The batch.
        api: Where it was submitted.
        roles: Must run until the end.
        show: Told now and then how many problems have ended.

    Raises:
        RoleEnded: A role ended in the middle.
    """
    while True:
        roles.check()
        batch = api.batch(batch_id)
        done = sum(batch["statuses"].get(status, 0) for status in FINAL)
        show(done)
        if done == batch["size"]:
            return batch
        time.sleep(LOOK_EVERY_S)

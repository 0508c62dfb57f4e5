"""Solves the same problems with several policies over REST, and shows how far each one is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stack.client import Api
from stack.roles import Roles

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
            while True:
                roles.check()
                ended[title] = api.batch(batch)
                done = sum(ended[title]["statuses"].get(status, 0) for status in FINAL)
                progress.update(line, completed=done)
                if done == len(problems):
                    break
                time.sleep(0.1)
    return ended

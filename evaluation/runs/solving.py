"""Solves a run's problems through the API: submits batches, waits for them, and keeps their results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, ParamSpec, TypeVar

from evaluation.problems import KnownProblem
from evaluation.runs.awaiting import Awaiting
from evaluation.runs.folder import Manifest, RunFolder
from evaluation.runs.plan import Plan, PlannedBatch, planned_batches
from evaluation.runs.rows import TrialRow
from shared.backoff import RECONNECT
from shared.domain.status import Status
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES
from stack.client import Api, ApiRefused, NoVersion, Unreachable

OPEN_PROBLEMS: Final = 400
"""Number of submitted problems that have not ended: enough to fill the default window, few enough to let others in."""

POLL_S: Final = 0.5
"""Seconds between two looks at the open batches."""

PATIENCE_S: Final = 300.0
"""Seconds for which a service may be unavailable before the run stops; it can be continued."""

TOO_LARGE: Final = frozenset({"batch_too_large", "body_too_large"})
"""Codes of refusals that a smaller batch avoids."""

P = ParamSpec("P")
T = TypeVar("T")


class Solving:
    """Solves a run. It can be interrupted at any moment and continued with the same folder."""

    def __init__(
        self,
        api: Api,
        folder: RunFolder,
        plan: Plan,
        problems: Sequence[KnownProblem],
        *,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Continue the run in the folder, or begin it; the caller holds the folder's lock.

        Raises:
            OtherRun: The folder holds another run.
        """
        self._api, self._folder, self._plan, self._problems, self._pause = api, folder, plan, problems, pause
        self._manifest: Manifest = folder.begin(plan)
        self._batches = self._divide()

    @property
    def has_ended(self) -> bool:
        """Whether the results of all problems are here, so that the service is not needed."""
        return all(self._folder.has_batch(each) for each in self._batches)

    def run(
        self, show: Callable[[int], object] = lambda _: None, tell: Callable[[str], object] = lambda _: None
    ) -> list[TrialRow]:
        """Solve all problems, write the results into the folder, and return them: by policy, problem and seed.

        Args:
            show: Receives the number of trials that have ended, after each look at the service.
            tell: Receives a sentence for each role that problems wait for while none ends, and for its return.

        Raises:
            Unreachable: The service did not answer for some minutes.
            ApiRefused: The service refuses a batch.
            NoVersion: A policy was fitted on other models than those that work.
        """
        self._submit_first()
        waiting = [batch for batch in self._batches if not self._folder.has_batch(batch)]
        kept = _count(self._batches) - _count(waiting)
        opened: list[PlannedBatch] = []
        awaiting = Awaiting(self._api.readiness, tell)
        while waiting or opened:
            while waiting and _count([*opened, waiting[0]]) <= OPEN_PROBLEMS:
                self._submit(waiting[0])
                opened.append(waiting.pop(0))
            ended = {batch.number: self._count_ended(batch) for batch in opened}
            show(done := kept + sum(ended.values()))
            awaiting.look(done)
            finished = [batch for batch in opened if ended[batch.number] == len(batch.trials)]
            for batch in finished:
                self._folder.save_batch(batch, self._fetch(batch))
                opened.remove(batch)
            kept += _count(finished)
            if opened and not finished:
                self._pause(POLL_S)
        return self._collect()

    def _divide(self) -> list[PlannedBatch]:
        return planned_batches(self._plan, self._problems, size=self._manifest.batch_problems)

    def _submit_first(self) -> None:
        """Submit the first batch, and divide the run into smaller ones while the service refuses it as too large."""
        while not self._manifest.batches:
            first = self._batches[0]
            try:
                self._submit(first)
            except ApiRefused as error:
                if error.reason not in TOO_LARGE or len(first.trials) == 1:
                    raise
                self._manifest.batch_problems = len(first.trials) // 2
                self._folder.save(self._manifest)
                self._batches = self._divide()

    def _submit(self, batch: PlannedBatch) -> None:
        """Submit a batch, unless an earlier start did; the key makes sure that none is submitted twice."""
        manifest, label = self._manifest, batch.candidate.label
        if batch.number in manifest.batches:
            return
        problems, defaults = batch.body(self._plan.options, manifest.versions.get(label))
        key = manifest.key(batch.number)
        batch_id = self._patiently(self._api.submit, problems, defaults, key=key)
        if label not in manifest.versions and issubclass(POLICIES[batch.candidate.name], FittedPolicy):
            # The default may change while the run goes on; all of its problems get the version of the first ones.
            [first] = self._patiently(self._read, f"/v1/batches/{batch_id}/problems", count=1)
            manifest.versions[label] = first["policy"]["version"]
        manifest.batches[batch.number] = batch_id
        self._folder.save(manifest)

    def _fetch(self, batch: PlannedBatch) -> list[TrialRow]:
        batch_id = self._manifest.batches[batch.number]
        problems = self._patiently(self._read, f"/v1/batches/{batch_id}/problems")
        failures = [each["failure"] or {} for each in problems]
        if all(each.get("code") == "policy_models_differ" for each in failures):
            raise NoVersion(f"All problems of {batch.candidate.label} failed: {failures[0]['detail']}")
        return [
            TrialRow.of(
                planned,
                problem,
                self._patiently(self._read, f"/v1/problems/{problem['id']}/audit"),
                policy=batch.candidate.label,
            )
            for planned, problem in zip(batch.trials, problems, strict=True)
        ]

    def _count_ended(self, batch: PlannedBatch) -> int:
        statuses = self._patiently(self._api.batch, self._manifest.batches[batch.number])["statuses"]
        return sum(statuses.get(status, 0) for status in Status if status.is_final)

    def _read(self, path: str, count: int | None = None) -> list[dict[str, Any]]:
        return list(self._api.items(path, count=count))

    def _collect(self) -> list[TrialRow]:
        """Put the results of all batches in the order of policies, problems and seeds, and write them."""
        by_policy: dict[str, list[TrialRow]] = {label: [] for label in self._plan.policies}
        for batch in self._batches:
            by_policy[batch.candidate.label] += self._folder.read_batch(batch)
        rows = [row for each in by_policy.values() for row in each]
        self._folder.save_results(rows)
        return rows

    def _patiently(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Repeat a call while the service does not answer, or lacks its database. Every call may safely be repeated."""
        waited, attempt = 0.0, 0
        while True:
            try:
                return call(*args, **kwargs)
            except (Unreachable, ApiRefused) as error:
                if waited >= PATIENCE_S or (isinstance(error, ApiRefused) and not error.may_pass):
                    raise
            delay_s = RECONNECT.delay_s(attempt)
            self._pause(delay_s)
            waited, attempt = waited + delay_s, attempt + 1


def _count(batches: Sequence[PlannedBatch]) -> int:
    """Count the trials of batches."""
    return sum(len(batch.trials) for batch in batches)

"""The result of one trial as a run keeps it, made from what the service stores about a problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from evaluation.runs.plan import PlannedTrial
from evaluation.study import Decided, Spent, Trial
from services.api.schemas.problems import Ledger as StoredLedger
from shared.domain.decisions import Action
from shared.domain.ledger import Ledger
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status
from shared.domain.verdict import Verdict


class DecidedRow(BaseModel):
    """A decision."""

    model_config = ConfigDict(frozen=True)

    step: int
    action: Action
    score: float | None


class TrialRow(BaseModel):
    """One problem, solved once with one seed by one policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    """Label of the policy."""
    version: int | None
    """Version of a fitted policy."""
    id: str
    """Id of the problem in the file."""
    seed: int
    problem_id: str
    """Id of the problem at the service."""
    status: Status
    stop_reason: str | None
    failure: str | None
    """Code of the failure."""
    answer: str | None
    reference: str | None
    verdict: Verdict | None
    ledger: StoredLedger
    latency_s: float | None
    """From the problem's start to its end; `None` if it never started."""
    decisions: tuple[DecidedRow, ...]
    waited_s: dict[WorkerRole, float]
    worked_s: dict[WorkerRole, float]
    models: dict[WorkerRole, str]
    """Models of the drafts, scores and large steps that were decided on."""

    @model_validator(mode="after")
    def _has_both_times_of_each_role(self) -> Self:
        if self.waited_s.keys() != self.worked_s.keys():
            raise ValueError("a role has only one of its times")
        return self

    @classmethod
    def of(
        cls, planned: PlannedTrial, problem: Mapping[str, Any], audit: Iterable[Mapping[str, Any]], *, policy: str
    ) -> Self:
        """Make the row of a problem that has ended, from the API's answers.

        Args:
            planned: The trial.
            problem: The problem.
            audit: Its decisions, each beside the step that was accepted at its place.
            policy: Label of the policy.
        """
        entries = list(audit)
        work = list(_work(entries))
        return cls(
            policy=policy,
            version=problem["policy"]["version"],
            id=planned.problem.id,
            seed=planned.seed,
            problem_id=problem["id"],
            status=problem["status"],
            stop_reason=problem["stop_reason"],
            failure=problem["failure"] and problem["failure"]["code"],
            answer=problem["answer"],
            reference=problem["reference"],
            verdict=problem["verdict"],
            ledger=problem["ledger"],
            latency_s=_seconds(problem["started_at"], problem["finished_at"]),
            decisions=tuple(
                DecidedRow(step=each["step"], action=each["action"], score=each["observation"]["score"])
                for each in (entry["decision"] for entry in entries)
            ),
            waited_s=_sums(work, "waited_ms"),
            worked_s=_sums(work, "worked_ms"),
            models={role: part["model"] for role, part in work},
        )

    @property
    def ending(self) -> str | None:
        """Why it has no solution, such as `failed: attempts_exhausted`; `None` if it has one."""
        if self.status is Status.SUCCEEDED:
            return None
        return f"{self.status}: {self.failure}" if self.failure else str(self.status)

    @property
    def trial(self) -> Trial:
        """The trial of a study. Without a solution, or with an answer that is not known to be right, it is unsolved."""
        return Trial(
            is_solved=self.verdict is Verdict.CORRECT,
            large_tokens=self.ledger.large_out,
            ledger=Ledger(**self.ledger.model_dump()),
            decisions=[
                Decided(step=each.step, escalates=each.action is Action.ESCALATE, score=each.score)
                for each in self.decisions
            ],
            latency_s=self.latency_s,
            spent={
                role: Spent(waited_s=waited, worked_s=self.worked_s[role]) for role, waited in self.waited_s.items()
            },
        )


def _work(entries: Sequence[Mapping[str, Any]]) -> Iterable[tuple[WorkerRole, Mapping[str, Any]]]:
    """Yield drafts, scorings and large steps with the role that did the work."""
    # One call of the PRM may score several drafts, and a step may have several decisions; the work counts once.
    scorings: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    large_steps: dict[int, Mapping[str, Any]] = {}
    for entry in entries:
        decision, step = entry["decision"], entry["accepted_step"]
        if decision["draft"] is not None:
            yield WorkerRole.SMALL, decision["draft"]
        if (scoring := decision["scoring"]) is not None:
            scorings[tuple(scoring.values())] = scoring
        if step is not None and step["author"] == Author.LARGE:
            large_steps[step["step"]] = step
    for scoring in scorings.values():
        yield WorkerRole.PRM, scoring
    for step in large_steps.values():
        yield WorkerRole.LARGE, step


def _sums(work: Sequence[tuple[WorkerRole, Mapping[str, Any]]], field: str) -> dict[WorkerRole, float]:
    sums = dict.fromkeys((role for role, _ in work), 0.0)
    for role, part in work:
        sums[role] += part[field] / 1000
    return sums


def _seconds(start: str | None, end: str | None) -> float | None:
    if start is None or end is None:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()

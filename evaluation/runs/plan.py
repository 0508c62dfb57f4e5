"""The plan of a run: which problems, seeds, policies and options; and the batches that it submits, always the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from evaluation.problems import KnownProblem, ProblemFile
from evaluation.runs.candidates import LARGE_ONLY, SMALL_ONLY, Candidate
from services.api.schemas.submissions import Choices
from shared.errors import PermanentError

BATCH_PROBLEMS: Final = 100
"""Largest number of problems in a batch, unless the service accepts less."""

BATCH_CHARS: Final = 500_000
"""Largest number of characters of a batch's questions, so that its body is accepted with the default limits."""

MAX_SEEDS: Final = 1000


class PolicyTwice(PermanentError):
    """A policy is named twice; name each policy with the same settings once."""

    code = "policy_twice"


class BadOptions(PermanentError):
    """An option of the run is wrong; correct it."""

    code = "bad_options"


class Plan(BaseModel):
    """What a run solves. Two starts with equal plans are the same run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    """Name of the file of problems, for titles."""
    digest: str
    """SHA-256 digest of the file of problems."""
    problems: int = Field(ge=1)
    """Number of problems, from the beginning of the file."""
    seeds: int = Field(ge=1)
    """Number of times that each policy solves each problem, with the sampling seeds 0, 1, ..."""
    policies: tuple[str, ...]
    """Labels of the policies; the first two are small-only and large-only."""
    options: dict[str, Any]
    """Options of all problems as the API takes them: `sampling`, `limits`, `lookahead`, ..."""

    @field_validator("policies")
    @classmethod
    def _begin_with_baselines(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if labels[:2] != (SMALL_ONLY, LARGE_ONLY):
            raise ValueError("the first two policies are the baselines")
        return labels

    @classmethod
    def of(
        cls,
        file: ProblemFile,
        *,
        name: str,
        seeds: int,
        policies: Sequence[str],
        options: Mapping[str, Any],
        first: int | None = None,
    ) -> Self:
        """Make the plan for a file; small-only and large-only are added to the policies.

        Args:
            file: The problems.
            name: Name of the file.
            seeds: Number of times that each policy solves each problem.
            policies: The policies as a person writes them.
            options: Options of all problems as the API takes them.
            first: Number of problems to take from the beginning of the file; the default is all.

        Raises:
            PolicyTwice: A policy is named twice, also in two forms.
            UnknownPolicy: A policy does not exist.
            BadParameters: A policy's parameter or wrapper is wrong.
            BadOptions: The service would refuse an option.
        """
        _check(options)
        wanted = [label.strip() for label in policies if label.strip() not in (SMALL_ONLY, LARGE_ONLY)]
        plan = cls(
            file=name,
            digest=file.digest,
            problems=len(file.problems[:first]),
            seeds=seeds,
            policies=(SMALL_ONLY, LARGE_ONLY, *wanted),
            options=dict(options),
        )
        _check_different(plan.candidates)
        return plan

    @property
    def candidates(self) -> list[Candidate]:
        """The policies, in order.

        Raises:
            UnknownPolicy: A policy does not exist.
            BadParameters: A policy's parameter or wrapper is wrong.
        """
        return [Candidate.parse(label) for label in self.policies]

    @property
    def trials(self) -> int:
        """Number of problems to solve, over all policies and seeds."""
        return self.problems * self.seeds * len(self.policies)

    def differences(self, other: Plan) -> list[str]:
        """Return the names of the fields in which another plan differs."""
        return [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial:
    """One problem with one seed."""

    problem: KnownProblem
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch:
    """Problems that are submitted together, for one policy."""

    number: int
    """Place among the run's batches, from 0."""
    candidate: Candidate
    trials: Sequence[PlannedTrial]

    def body(self, options: Mapping[str, Any], version: int | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the problems and the defaults as `POST /v1/batches` takes them."""
        problems = [
            {
                "question": trial.problem.question,
                "reference": trial.problem.reference,
                "sampling": {"seed": trial.seed},
            }
            for trial in self.trials
        ]
        return problems, {**options, "policy": self.candidate.choice(version)}


def planned_batches(plan: Plan, problems: Sequence[KnownProblem], *, size: int = BATCH_PROBLEMS) -> list[PlannedBatch]:
    """Divide a run into batches. All policies solve a group of problems before the next group begins.

    So they share the service's load, and their latencies can be compared.

    Args:
        plan: The plan.
        problems: The problems of its file.
        size: Largest number of problems in a batch.
    """
    batches: list[PlannedBatch] = []
    for trials in _groups(plan, problems[: plan.problems], size=size):
        for candidate in plan.candidates:
            batches.append(PlannedBatch(number=len(batches), candidate=candidate, trials=trials))
    return batches


def _groups(plan: Plan, problems: Sequence[KnownProblem], *, size: int) -> Iterator[list[PlannedTrial]]:
    group: list[PlannedTrial] = []
    chars = 0
    for problem in problems:
        length = len(json.dumps([problem.question, problem.reference]))
        for seed in range(plan.seeds):
            if group and (len(group) == size or chars + length > BATCH_CHARS):
                yield group
                group, chars = [], 0
            group.append(PlannedTrial(problem=problem, seed=seed))
            chars += length
    if group:
        yield group


def _check_different(candidates: Sequence[Candidate]) -> None:
    """Refuse a policy that has the name, version, parameters and wrappers of another one, with their defaults."""
    built = [(each.version, each.routing) for each in candidates]
    for place, each in enumerate(built):
        if (first := built.index(each)) < place:
            raise PolicyTwice(
                f"{candidates[first].label!r} and {candidates[place].label!r} are the same policy; name it once."
            )


def _check(options: Mapping[str, Any]) -> None:
    try:
        Choices.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise BadOptions(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}.") from error

"""PRM scores of a running service, from its stored rows.

The rows tell whether a solution ended right, and not which of its steps were right. So an accepted step counts as right
if the solution that went on from it ended right, which is how Math-Shepherd (arXiv 2312.08935, section 3.3) estimates
the value of a step. Rejected drafts have no label: no solution went on from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from evaluation.score_calibration import Labelled, TooFewLabels
from shared.domain.status import Status
from shared.domain.verdict import Verdict
from shared.errors import PermanentError
from stack.client import Api

LABEL: Final = (
    "A step counts as right if the solution that went on from it ended with the right answer; nobody judged the step"
    " itself. Rejected drafts have no label."
)

_LABELS: Final = {Verdict.CORRECT: True, Verdict.INCORRECT: False, Verdict.NO_ANSWER: False}


class NoScores(PermanentError):
    """The problems have no PRM scores; choose problems that a policy with a PRM has solved."""

    code = "no_scores"


class SeveralPrms(PermanentError):
    """The scores are of several PRMs; name one with --prm."""

    code = "several_prms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Scores of a problem that has ended; all are of one PRM."""

    prm: str
    """Model id of the PRM."""
    drafts: Sequence[float]
    """Scores of all drafts that were decided, also of rejected ones; at least one."""
    accepted: Sequence[float]
    """Scores of the steps of the solution."""
    is_right: bool | None
    """Whether the solution ended right; `None` if that is not known."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Scores of problems, and the number of problems without by reason."""

    scored: Sequence[Scored]
    left_out: Mapping[str, int]

    def of_one_prm(self, prm: str | None) -> Self:
        """Return the scores of one PRM.

        Args:
            prm: Model id of the PRM; may be `None` if all scores are of the same.

        Raises:
            NoScores: There are none.
            SeveralPrms: No PRM is named, and there are several.
        """
        found = sorted({each.prm for each in self.scored})
        if not found:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            raise NoScores(
                f"The problems have no usable PRM scores ({reasons or 'there are no problems'}); choose problems that a"
                " policy with a PRM has solved, or find in the log of the PRM's worker why it scores none."
            )
        if prm is None and len(found) > 1:
            raise SeveralPrms(f"The scores are of {len(found)} PRMs ({', '.join(found)}); name one with --prm.")
        if prm is not None and prm not in found:
            raise NoScores(f"The problems have no scores of {prm}, but of {', '.join(found)}.")
        chosen = [each for each in self.scored if each.prm == (prm or found[0])]
        left_out = Counter(self.left_out)
        left_out["scored by another PRM"] += len(self.scored) - len(chosen)
        return type(self)(scored=chosen, left_out=+left_out)

    @property
    def prm(self) -> str:
        """Model id of the PRM, if there is only one."""
        [prm] = {each.prm for each in self.scored}
        return prm

    @property
    def drafts(self) -> dict[str, list[Sequence[float]]]:
        """Scores of all drafts by problem, by the model id of the PRM."""
        found: dict[str, list[Sequence[float]]] = {}
        for each in self.scored:
            found.setdefault(each.prm, []).append(each.drafts)
        return found

    def labelled(self) -> Labelled:
        """Return the scores of accepted steps with their labels.

        Raises:
            TooFewLabels: There are none.
        """
        known = [each for each in self.scored if each.is_right is not None and each.accepted]
        if not known:
            raise TooFewLabels("No solution has both scores and a known answer; submit problems with a reference.")
        sizes = [len(each.accepted) for each in known]
        return Labelled(
            scores=np.array([score for each in known for score in each.accepted], dtype=np.float64),
            labels=np.repeat([float(each.is_right or 0) for each in known], sizes),
            problems=np.repeat(np.arange(len(known)), sizes),
        )

    @property
    def unlabelled(self) -> int:
        """Number of problems with scores whose answer is not known to be right or wrong."""
        return sum(each.is_right is None for each in self.scored)


def collect(api: Api, problems: Iterable[Mapping[str, Any]]) -> Collected:
    """Read the scores of problems.

    Args:
        api: Client for the service.
        problems: Problems as the API returns them.

    Raises:
        ApiRefused: The API refused a request.
        Unreachable: No service answers.
    """
    scored: list[Scored] = []
    left_out: Counter[str] = Counter()
    for problem in problems:
        if problem["status"] in (Status.QUEUED, Status.RUNNING):
            left_out["not ended"] += 1
            continue
        found = _read(api, problem)
        if isinstance(found, Scored):
            scored.append(found)
        else:
            left_out[found] += 1
    return Collected(scored=scored, left_out=left_out)


def _read(api: Api, problem: Mapping[str, Any]) -> Scored | str:
    """Return the scores of a problem, or why it has none."""
    path = f"/v1/problems/{problem['id']}"
    decisions = list(api.items(f"{path}/decisions"))
    prms = {each["scoring"]["model"] for each in decisions if each["scoring"] is not None}
    if not prms:
        return "without scores"
    if len(prms) > 1:
        return "scored by two PRMs"
    found = [each["observation"]["score"] for each in decisions if each["scoring"] is not None]
    drafts = [score for score in found if score is not None]
    if not drafts:
        return "without scores"
    # A problem that ended early has no answer, which tells nothing about its steps.
    is_judged = problem["status"] == Status.SUCCEEDED
    return Scored(
        prm=prms.pop(),
        drafts=drafts,
        accepted=[each["score"] for each in api.items(f"{path}/steps") if each["score"] is not None],
        is_right=_LABELS.get(problem["verdict"]) if is_judged else None,
    )

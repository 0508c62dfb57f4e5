r"""The input and the output format of each family of process reward models.

There are two kinds of families. A *tagged* family is a token classifier: it reads the whole solution at once, and its
output at the tag of each step is the score. A *next-token* family is a language model whose next token would be its
verdict on the newest step; it writes nothing, and the score comes from the probabilities of the two verdicts.

The input for more steps begins with the input for fewer steps, so prefix caches hit. If the tokenizer adds a
beginning-of-sequence token, as it does on servers, the input does not contain one. Questions and steps are made plain
first: neither can spell a special token or the mark that a family puts after a step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from shared.domain.text import STEP_TAG
from shared.engines.port import BadScores
from shared.engines.special_tokens import as_plain_text

_ROUNDING = 0.02
"""Maximum error of a probability, and of a sum of two, in half precision."""

_ROW = TypeAdapter(tuple[float | None, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """A family whose model scores all steps in one request, with one row of numbers per tag."""

    name: str
    before: str
    """Text before the question."""
    after: str
    """Text between the question and the first step."""
    tag: str
    """Token after each step, at which the step's row is read."""
    width: int
    """Numbers per row, after softmax or sigmoid. The last one is the probability that the step is right; of two, the
    first is the probability that it is wrong."""
    plain: Callable[[str], str] = as_plain_text
    """Makes a question or a step plain text."""

    @property
    def tags_before(self) -> int:
        """Number of tags before the first step; the model returns a meaningless row for each."""
        return (self.before + self.after).count(self.tag)

    def head(self, question: str) -> str:
        """Write the input before the first step."""
        return self.before + self.plain(question) + self.after

    def prompt(self, question: str, steps: Sequence[str]) -> str:
        """Write the input for all steps."""
        return self.head(question) + "".join(self.plain(step) + self.tag for step in steps)

    def scores(self, rows: Sequence[object], steps: int) -> tuple[float, ...]:
        """Read the scores of all steps from the model's rows; a missing number gives NaN.

        Raises:
            BadScores: The rows are not one for each tag, have the wrong width, or hold no probabilities.
        """
        expected = self.tags_before + steps
        if len(rows) != expected:
            raise BadScores(
                f"The PRM returned {len(rows)} rows where the format {self.name} has {expected} tags; check that"
                " TRIM_PRM_FORMAT is the format of TRIM_PRM_MODEL, and that it is served with step pooling."
            )
        return tuple(self.score(row) for row in rows[self.tags_before :])

    def score(self, row: object) -> float:
        """Read the score of one step from its row; a missing number gives NaN.

        Raises:
            BadScores: The row has the wrong width, or its numbers are no probabilities.
        """
        try:
            numbers = _ROW.validate_python(row)
        except ValidationError:
            numbers = ()
        if len(numbers) != self.width:
            raise BadScores(
                f"The PRM's rows do not have the {self.width} numbers of the format {self.name}; check that"
                " TRIM_PRM_FORMAT is the format of TRIM_PRM_MODEL, and that it is served with step pooling."
            )
        right = numbers[-1]
        if right is None or any(number is None or math.isnan(number) for number in numbers):
            return math.nan
        self._refuse_others([number for number in numbers if number is not None])
        return min(1.0, max(0.0, right))

    def _refuse_others(self, numbers: Sequence[float]) -> None:
        """Raise `BadScores` for numbers that are no probabilities, such as a model's raw output."""
        are_shares = all(-_ROUNDING <= number <= 1 + _ROUNDING for number in numbers)
        if not are_shares or (self.width > 1 and abs(sum(numbers) - 1) > _ROUNDING):
            raise BadScores(
                f"The PRM's rows are not the probabilities of the format {self.name}; check that TRIM_PRM_FORMAT is the"
                " format of TRIM_PRM_MODEL, and have its server apply softmax or sigmoid: vLLM does with use_activation"
                " in its --pooler-config, or in TRIM_PRM_PARAMETERS as"
                ' {"fix": {"use_activation": true}}.'
            )


LIKELIEST = 20
"""Number of likeliest next tokens among which the verdicts must be: vLLM's default maximum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextToken:
    """A family whose model scores one step per request, with an input that ends where its verdict would begin.

    Verdicts are compared by token id, because Mistral's vocabulary has two tokens with the text `+`.
    """

    name: str
    good: int
    """Id of the token for a right step."""
    bad: int
    """Id of the token for a wrong step."""
    write: Callable[[str, Sequence[str]], str]
    """Writes the input for a question and steps that are plain text."""
    plain: Callable[[str], str] = as_plain_text
    """Makes a question or a step plain text."""

    def prompt(self, question: str, steps: Sequence[str]) -> str:
        """Write the input for the verdict on the last step; at least one step is needed."""
        return self.write(self.plain(question), [self.plain(step) for step in steps])

    def score(self, logprobs: Mapping[int, float | None]) -> float:
        """Compute the score of the last step from the log-probabilities of the likeliest next tokens, by their ids.

        The score is the probability of the good verdict, given that the verdict is one of the two. A verdict that is
        not among the likeliest tokens counts as impossible; a missing number gives NaN.

        Raises:
            BadScores: Neither verdict is among the likeliest tokens.
        """
        if self.good not in logprobs and self.bad not in logprobs:
            raise BadScores(
                f"The PRM does not expect a verdict where the format {self.name} has one; check that TRIM_PRM_FORMAT is"
                " the format of TRIM_PRM_MODEL."
            )
        good, bad = logprobs.get(self.good, -math.inf), logprobs.get(self.bad, -math.inf)
        if good is None or bad is None:
            return math.nan
        return 1 / (1 + math.exp(min(bad - good, 700)))  # exp would overflow past 709.


PrmFormat = Tagged | NextToken


def prm_id(model: str, prm_format: PrmFormat) -> str:
    """Name a model as a PRM of a format: scores of one model in two formats are not comparable."""
    return f"{model}#{prm_format.name}"


# --- Qwen -----------------------------------------------------------------------------------------------------------

BUNDLED = Tagged(name="bundled", before="Problem: ", after="\n\n", tag=STEP_TAG, width=2)
"""The format of the bundled models; see `models/README.md`."""

QWEN = Tagged(
    name="qwen",
    before="<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n",
    after="<|im_end|>\n<|im_start|>assistant\n",
    tag=STEP_TAG,
    width=2,
)
"""Qwen2.5-Math-PRM: https://huggingface.co/Qwen/Qwen2.5-Math-PRM-7B.

The assistant's turn stays open, because text after a tag does not change the output at the tag.
"""


# --- Skywork --------------------------------------------------------------------------------------------------------

_SPACES = re.compile(r"\s+")


def _on_one_line(text: str) -> str:
    """Make text plain, and replace each run of white space that contains a line break with a single space."""
    return _SPACES.sub(lambda run: " " if "\n" in run[0] or "\r" in run[0] else run[0], as_plain_text(text))


SKYWORK = Tagged(name="skywork", before="<|endoftext|>", after="\n", tag="\n", width=1, plain=_on_one_line)
"""Skywork-o1-Open-PRM: https://github.com/SkyworkAI/skywork-o1-prm-inference, `prepare_input` and `PRM_MODEL`.

The input begins with the beginning-of-sequence token, which the tokenizer does not add. The newline after a step must
be a separate token: the authors tokenize it separately from the step, because Qwen's tokenizer joins a full stop and a
newline. They tokenize the question and its newline together.
"""


# --- Math-Shepherd --------------------------------------------------------------------------------------------------

_KI = re.compile(r"\bк(?=и\b)")
_NUMBERED = re.compile(r"step \d", re.I)


def _without_ki(text: str) -> str:
    """Make text plain, and insert a zero-width space into the word `ки`, which would close a step.

    Longer words that contain it stay unchanged.
    """
    return _KI.sub("\\g<0>\N{ZERO WIDTH SPACE}", as_plain_text(text))


def _math_shepherd(question: str, steps: Sequence[str]) -> str:
    numbered = [
        step if _NUMBERED.match(step) else f"Step {number}: {step}" for number, step in enumerate(steps, start=1)
    ]
    return f"{question} " + "\n".join(f"{step} ки" for step in numbered)


MATH_SHEPHERD = NextToken(name="math-shepherd", good=648, bad=387, write=_math_shepherd, plain=_without_ki)
"""Math-Shepherd's PRM: https://huggingface.co/peiyi9979/math-shepherd-mistral-7b-prm.

Its verdicts are `+` and `-` after a space. A step that already has a number gets no other one, as in
https://github.com/ssmisya/PRMBench (`mr_eval/models/math_shepherd.py`).
"""


# --- RLHFlow --------------------------------------------------------------------------------------------------------


def _rlhflow(question: str, steps: Sequence[str]) -> str:
    turns = [f"{question} {step}" if index == 0 else step for index, step in enumerate(steps)]
    return (
        "<|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    ) + "+<|eot_id|>".join(
        f"<|start_header_id|>user<|end_header_id|>\n\n{turn.strip()}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        for turn in turns
    )


RLHFLOW = NextToken(name="rlhflow", good=10, bad=12, write=_rlhflow)
"""RLHFlow's PRMs: https://github.com/RLHFlow/RLHF-Reward-Modeling, `math-rm/prm_evaluate.py`.

The authors use the chat template of Llama 3.1, which begins with a system turn about dates and trims each turn. The
answer to each earlier step is `+`, whatever its score was.
"""


FORMATS: Mapping[str, PrmFormat] = {each.name: each for each in (BUNDLED, QWEN, SKYWORK, MATH_SHEPHERD, RLHFLOW)}
"""All families, by their names in TRIM_PRM_FORMAT."""

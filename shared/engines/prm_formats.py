r"""How each family of process reward models is asked, and how its answer is read.

There are two ways. A *tagged* family reads the whole solution at once, and a token classifier says at each step's tag
what it thinks of the step. A *next-token* family is a language model that would write its verdict of the newest step
next: nothing is written, the probabilities of the two verdicts are read.

An input grows at its end only: the one for more steps begins with the one for fewer, so that prefix caches hit. It has
no beginning-of-sequence token where the tokenizer adds one by itself, as servers let it do; it would come twice.
Questions and steps become plain text first, and what a family uses as its mark cannot be spelled by either.
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

_ROW = TypeAdapter(tuple[float | None, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """A family whose model is asked once and answers with one row a tag."""

    name: str
    before: str
    """What the question follows."""
    after: str
    """What stands between the question and the first step."""
    tag: str
    """Closes a step: the token at which its row is read."""
    width: int
    """Numbers of a row, after the server's softmax or sigmoid. The last one is the probability that the step is right:
    of two, the first is that it is wrong."""
    plain: Callable[[str], str] = as_plain_text
    """Makes a question or a step harmless."""

    @property
    def tags_before(self) -> int:
        """How many tags stand before the first step: a row comes back for each, and says nothing."""
        return (self.before + self.after).count(self.tag)

    def head(self, question: str) -> str:
        """Write what precedes the first step."""
        return self.before + self.plain(question) + self.after

    def prompt(self, question: str, steps: Sequence[str]) -> str:
        """Write the input for all steps."""
        return self.head(question) + "".join(self.plain(step) + self.tag for step in steps)

    def scores(self, rows: Sequence[object], steps: int) -> tuple[float, ...]:
        """Read the scores of all steps from the rows that came back; a number that is missing is NaN.

        Raises:
            BadScores: There is not one row of the right width for each tag.
        """
        expected = self.tags_before + steps
        if len(rows) != expected:
            raise BadScores(
                f"The PRM answered with {len(rows)} rows where the format {self.name} has {expected} tags; check that"
                " TRIM_PRM_FORMAT is the format of TRIM_PRM_MODEL, and that it is served with step pooling."
            )
        return tuple(self.score(row) for row in rows[self.tags_before :])

    def score(self, row: object) -> float:
        """Read the score of one step from its row; a number that is missing is NaN.

        Raises:
            BadScores: It is no row of the right width.
        """
        try:
            numbers = _ROW.validate_python(row)
        except ValidationError:
            numbers = ()
        if len(numbers) != self.width:
            raise BadScores(
                f"The PRM's rows are not those of the format {self.name}, which are {self.width} wide; check that"
                " TRIM_PRM_FORMAT is the format of TRIM_PRM_MODEL, and that it is served with step pooling."
            )
        right = numbers[-1]
        return math.nan if right is None else right


LIKELIEST = 20
"""Next tokens of a model that are looked at for a verdict: as many as vLLM tells unless it is asked for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextToken:
    """A family whose model is asked once for each step to score, with an input that ends where its verdict would begin.

    Verdicts are told by their ids, not by their text: Mistral's vocabulary has two tokens that are both read as `+`.
    """

    name: str
    good: int
    """Id of the token that says that a step is right."""
    bad: int
    """Id of the token that says that a step is wrong."""
    write: Callable[[str, Sequence[str]], str]
    """Writes the input for a question and steps that are harmless."""
    plain: Callable[[str], str] = as_plain_text
    """Makes a question or a step harmless."""

    def prompt(self, question: str, steps: Sequence[str]) -> str:
        """Write the input that asks about the last of the steps, of which there is at least one."""
        return self.write(self.plain(question), [self.plain(step) for step in steps])

    def score(self, logprobs: Mapping[int, float | None]) -> float:
        """Read the score of the last step from the log-probabilities of the likeliest next tokens, by their ids.

        It is the probability of the good verdict among the two. A verdict that is not among the likeliest tokens counts
        as impossible; a number that is missing gives NaN.

        Raises:
            BadScores: Neither verdict is among them.
        """
        if self.good not in logprobs and self.bad not in logprobs:
            raise BadScores(
                f"The PRM expects no verdict where the format {self.name} has one; check that TRIM_PRM_FORMAT is the"
                " format of TRIM_PRM_MODEL."
            )
        good, bad = logprobs.get(self.good, -math.inf), logprobs.get(self.bad, -math.inf)
        if good is None or bad is None:
            return math.nan
        return 1 / (1 + math.exp(min(bad - good, 700)))  # beyond 700 it is nothing, and exp would overflow


PrmFormat = Tagged | NextToken


# --- Qwen -----------------------------------------------------------------------------------------------------------

BUNDLED = Tagged(name="bundled", before="Problem: ", after="\n\n", tag=STEP_TAG, width=2)
"""The bundled models, see `models/README.md`."""

QWEN = Tagged(
    name="qwen",
    before="<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n",
    after="<|im_end|>\n<|im_start|>assistant\n",
    tag=STEP_TAG,
    width=2,
)
"""Qwen2.5-Math-PRM: https://huggingface.co/Qwen/Qwen2.5-Math-PRM-7B.

The assistant's turn stays open: what follows a tag changes nothing of what is read there.
"""


# --- Skywork --------------------------------------------------------------------------------------------------------

_SPACES = re.compile(r"\s+")


def _on_one_line(text: str) -> str:
    """Make text plain, and each run of white space with a line break in it a single space."""
    return _SPACES.sub(lambda run: " " if "\n" in run[0] or "\r" in run[0] else run[0], as_plain_text(text))


SKYWORK = Tagged(name="skywork", before="<|endoftext|>", after="\n", tag="\n", width=1, plain=_on_one_line)
"""Skywork-o1-Open-PRM: https://github.com/SkyworkAI/skywork-o1-prm-inference, `prepare_input` and `PRM_MODEL`.

The authors put the beginning-of-sequence token first; the tokenizer does not by itself. The newline after a step must
be a token of its own: they tokenize it apart from the step, while Qwen's rule joins a full stop and a newline. The
question and its newline they tokenize together.
"""


# --- Math-Shepherd --------------------------------------------------------------------------------------------------

_KI = re.compile(r"\bк(?=и\b)")
_NUMBERED = re.compile(r"step \d", re.I)


def _without_ki(text: str) -> str:
    """Make text plain, and put a zero-width space into a lone `ки`, which would close a step.

    Words that begin or end in it stay as they are.
    """
    return _KI.sub("\\g<0>\N{ZERO WIDTH SPACE}", as_plain_text(text))


def _math_shepherd(question: str, steps: Sequence[str]) -> str:
    numbered = [
        step if _NUMBERED.match(step) else f"Step {number}: {step}" for number, step in enumerate(steps, start=1)
    ]
    return f"{question} " + "\n".join(f"{step} ки" for step in numbered)


MATH_SHEPHERD = NextToken(name="math-shepherd", good=648, bad=387, write=_math_shepherd, plain=_without_ki)
"""Math-Shepherd's PRM: https://huggingface.co/peiyi9979/math-shepherd-mistral-7b-prm.

Its verdicts are `+` and `-` with a space before them. A step that has its number already gets no other, as in
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

The authors ask with the chat template of Llama 3.1, which begins with a system turn about dates and trims each turn.
Earlier steps are answered with `+`, whatever was thought of them.
"""


FORMATS: Mapping[str, PrmFormat] = {each.name: each for each in (BUNDLED, QWEN, SKYWORK, MATH_SHEPHERD, RLHFLOW)}
"""All families by the names that TRIM_PRM_FORMAT has for them."""

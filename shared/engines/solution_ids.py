r"""Token ids of a solution so far, such that a model goes on as it would without interruption.

Many tokenizers encode a blank line at the end of a text otherwise than before further text: GPT-2's makes one token of
`\n\n` at the end, and two of it before a word. A model that continues the former reads what it never read before a
word. So the ids here are those that the model itself wrote, or else those that the text has before further text.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.domain.text import SEPARATOR, extend_digest
from shared.engines.written import Written

Encode = Callable[[str], list[int]]

_FOLLOWING = ("A", "T", "x", "1")
"""Letters that may stand for the text to come; the first one that merges with no blank line is used."""

_BEFORE = f"A.{SEPARATOR}"
"""Text that a step is encoded after, because some tokenizers encode the beginning of a text in another way."""

_REMEMBERED = 1_000_000
"""Number of ids that are remembered, 4 bytes each."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is before the first step."""

    text: str
    ids: list[int]
    encode: Encode
    """Encodes a text that the model's input begins with."""


class SolutionEncoder:
    """Encodes solutions for one model, and remembers with which ids the model wrote its steps.

    The memory belongs to the process. It changes a prompt only where the model wrote other tokens than its tokenizer
    chooses, or text that is not part of a step: blank lines at its beginning, or a first attempt without words.
    """

    def __init__(self, encode: Encode, decode: Callable[[Sequence[int]], str]) -> None:
        """Find out how the tokenizer encodes a blank line before text.

        Args:
            encode: Encodes text in the middle of the model's input, without special tokens that are added there.
            decode: Decodes ids.
        """
        self._encode = encode
        self._decode = decode
        self._following = next((each for each in _FOLLOWING if self._is_apart(encode(_BEFORE + each), each)), "")
        self._before = self._open_ids(_BEFORE)
        self.written: Written[array[int]] = Written(_REMEMBERED)
        """The ids with which the model wrote its steps."""

    def prompt(self, text: str, *, encode: Encode | None = None) -> Prompt:
        """Encode a template's text before the first step.

        A space at its end is left out, because many tokenizers encode it with the next word: the model writes both.

        Args:
            text: The text.
            encode: Encodes a text that the model's input begins with, if this is another way of encoding.
        """
        encode, trimmed = encode or self._encode, text.rstrip(" \t")
        if trimmed.endswith("\n") and self._following:
            *ids, last = encode(trimmed + self._following)
            if self._is_apart([last], self._following):
                return Prompt(text, ids, encode)
        return Prompt(text, encode(trimmed), encode)

    def step_ids(self, text: str) -> list[int]:
        """Encode a finished step with its separator, as it is in the middle of a solution."""
        ids = self._open_ids(_BEFORE + text + SEPARATOR)
        count = len(self._before)
        # Text that begins with a mark on the letter before it, for example, changes the ids before it.
        return ids[count:] if ids[:count] == self._before else self._open_ids(text + SEPARATOR)

    def first_step_ids(self, prompt: Prompt, text: str) -> list[int]:
        """Encode the step that follows a prompt, whose end may change how the step begins."""
        if not self._following or prompt.text.endswith("\n"):
            return self.step_ids(text)
        ids = prompt.encode(prompt.text + text + SEPARATOR + self._following)[:-1]
        count = len(prompt.ids)
        return ids[count:] if ids[:count] == prompt.ids else self.step_ids(text)

    def _open_ids(self, text: str) -> list[int]:
        """Encode text that further text follows."""
        return self._encode(text + self._following)[:-1] if self._following else self._encode(text)

    def _is_apart(self, ids: Sequence[int], letter: str) -> bool:
        """Tell whether the last id is that of the letter alone."""
        return bool(ids) and self._decode(ids[-1:]).strip(" ") == letter


class SolutionIds:
    """The ids of one solution, to which an engine appends those that its model writes."""

    def __init__(
        self,
        encoder: SolutionEncoder,
        question: str,
        prompt: Prompt,
        steps: Sequence[str],
        *,
        plain: Callable[[str], str] = str,
    ) -> None:
        """Encode the steps after a prompt.

        Args:
            encoder: Encodes for the model.
            question: The problem's question.
            prompt: What is before the first step.
            steps: Texts of the steps so far.
            plain: Keeps text of a step from spelling special tokens; called once for each step, in order.
        """
        self._encoder = encoder
        self._digest = extend_digest("", question)
        self.ids = list(prompt.ids)
        for index, text in enumerate(steps):
            self._digest, shown = extend_digest(self._digest, text), plain(text)
            if (written := encoder.written.recall(self._digest)) is not None:
                self.ids += written
            elif index:
                self.ids += encoder.step_ids(shown)
            else:
                self.ids += encoder.first_step_ids(prompt, shown)
        self._begin = len(self.ids)
        self._is_whole = True

    def finish_step(self, text: str, *, rest: str) -> None:
        """Note that the model has written a step and its separator.

        Args:
            text: Text of the step.
            rest: What its last token holds of the next step.
        """
        self._digest = extend_digest(self._digest, text)
        is_whole = not rest.strip()
        if is_whole and self._is_whole:
            self._encoder.written.remember(self._digest, array("I", self.ids[self._begin :]))
        self._begin, self._is_whole = len(self.ids), is_whole

"""Models that think aloud: how what they think becomes steps, or is left out of them.

One rule for all engines that read a model's own text. In the mode `steps`, each paragraph between `<think>` and
`</think>` is a step, marked as a thought (`shared/domain/thoughts.py`), and all that follows is the answer, one step.
Otherwise what a model thinks is dropped, and only its tokens are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal

from shared.domain.text import SEPARATOR, is_degenerate, split_step
from shared.domain.thoughts import CLOSES, OPENS, as_thought, closes_thinking, is_thought, without_mark

Thinking = Literal["off", "steps"]
"""What becomes of what a model thinks."""

THINKING_ID = "#thinking"
"""End of a model's name in the record if its thoughts are steps: their scores are not comparable with those of text."""


def template_arguments(thinking: Thinking | None) -> Mapping[str, Any]:
    """Return the arguments with which chat templates have a model think or not: those of Qwen's and of DeepSeek's."""
    if thinking is None:
        return {}
    return dict.fromkeys(("enable_thinking", "thinking"), thinking == "steps")


class _State(Enum):
    THINKING = auto()
    ANSWERING = auto()
    WRITING = auto()
    """It writes steps, without having thought in any."""


@dataclass(slots=True)
class Transcript:
    """Writes a solution as the model reads it: thoughts between tags in the mode `steps`, without tags otherwise.

    It only grows: what the model reads before a step is the beginning of what it reads after it.
    """

    thinking: Thinking | None
    plain: Callable[[str], str]
    """Makes a step plain text, which cannot spell a tag."""
    is_opened: bool = False
    """Whether the prompt ends with `<think>`, as some chat templates have it."""
    state: _State = _State.WRITING

    def write(self, steps: Sequence[str]) -> list[str]:
        """Return the solution's beginning and the text of each step, which the model continues."""
        return [self.begin(steps), *map(self.add, steps)]

    def begin(self, steps: Sequence[str]) -> str:
        """Return the beginning of the solution, before its first step."""
        if self.thinking != "steps":
            return f"\n{CLOSES}{SEPARATOR}" if self.is_opened else ""
        opening = "" if self.is_opened else f"{OPENS}\n"
        if not steps or is_thought(steps[0]):
            self.state = _State.THINKING
            return opening
        return f"{opening}\n{CLOSES}{SEPARATOR}"

    def add(self, step: str) -> str:
        """Return the text of the next step, with what follows it."""
        text, is_open = self.plain(without_mark(step)), self.state is _State.THINKING
        if self.thinking != "steps":
            return text + SEPARATOR
        if is_open and is_thought(step):
            if not closes_thinking(step):
                return text + SEPARATOR
            self.state = _State.ANSWERING
            return f"{text}\n{CLOSES}{SEPARATOR}"
        self.state = _State.ANSWERING if is_open else self.state
        return (CLOSES + SEPARATOR if is_open else "") + text + SEPARATOR


@dataclass(slots=True)
class Thoughts:
    """Finds steps in what a model writes in one call, thoughts among them."""

    state: _State = _State.WRITING

    @classmethod
    def after(cls, transcript: Transcript) -> Thoughts:
        """Begin after the steps that a transcript has."""
        return cls(transcript.state)

    @property
    def is_thinking(self) -> bool:
        """Whether the model is thinking."""
        return self.state is _State.THINKING

    @property
    def is_answering(self) -> bool:
        """Whether the model writes its answer, in which a blank line ends nothing."""
        return self.state is _State.ANSWERING

    def skip_end(self, text: str) -> str | None:
        """Take the end of the thinking if it comes without words before it; return what follows, or `None`."""
        before, tag, after = text.partition(CLOSES)
        if not (self.is_thinking and tag) or not is_degenerate(before):
            return None
        self.state = _State.ANSWERING
        return after.lstrip()

    def split(self, text: str) -> tuple[str, str] | None:
        """Split text at the end of its first step, as `split_step` does."""
        if self.is_answering:
            return None
        if not self.is_thinking:
            return split_step(text)
        thought, tag, after = text.removeprefix(OPENS).partition(CLOSES)
        if (parts := split_step(thought)) is not None:
            return parts[0], parts[1] + tag + after
        if not tag or is_degenerate(thought):
            return None
        return f"{thought.strip()}{CLOSES}", after.lstrip()

    def mark(self, text: str) -> str:
        """Return the text of a finished step: that of a thought with its mark."""
        if not self.is_thinking or is_degenerate(text):
            return text
        is_last = text.endswith(CLOSES)
        self.state = _State.ANSWERING if is_last else self.state
        return as_thought(text.removeprefix(OPENS).removesuffix(CLOSES).strip(), is_last=is_last)


@dataclass(slots=True)
class Hiding:
    """Leaves what a model thinks out of its text, while the text arrives in pieces."""

    is_thinking: bool = False
    held: str = ""
    """The end of what has arrived, if it may be the beginning of a tag."""
    _has_thought: bool = False
    """Whether the blank text after a thought is left out as well."""

    def visible(self, piece: str) -> str:
        """Return what of a piece, and of what was held back before it, is not thought."""
        if not self.is_thinking and not self.held and not self._has_thought and "<" not in piece:
            return piece
        text, shown = self.held + piece, ""
        self.held = ""
        while True:
            before, tag, text = text.partition(CLOSES if self.is_thinking else OPENS)
            if not tag:
                break
            shown += "" if self.is_thinking else before
            self._has_thought, self.is_thinking = True, not self.is_thinking
        kept, self.held = _hold(before, CLOSES if self.is_thinking else OPENS)
        shown += "" if self.is_thinking else kept
        if self._has_thought:
            shown = shown.lstrip()
            self._has_thought = self.is_thinking or not shown
        return shown

    def rest(self) -> str:
        """Return what was held back, once nothing follows."""
        held, self.held = self.held, ""
        return "" if self.is_thinking else held


def _hold(text: str, tag: str) -> tuple[str, str]:
    """Split off the end of a text that may be the beginning of a tag."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return text[:-length], text[-length:]
    return text, ""

"""Trains the tokenizer that all three models share."""

from __future__ import annotations

from itertools import chain, islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from models.problems.drawing import Split, draw
from shared.domain.text import SEPARATOR, join_steps

END_OF_TEXT, START, END, STEP_TAG = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"
"""Special tokens: padding, unused, the end of a solution, and where a PRM scores a step."""

PAD_ID, END_ID, STEP_TAG_ID = 0, 2, 3
"""Their ids, in that order; the unused one has 1."""

_STORIES = 4000

# As in Qwen's, digits stand alone and `.` with a blank line is one token. Other than there, a space before a number
# belongs to what stands before it: numbers are most of these texts, and each would cost a token more.
_PIECES = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+(?: (?=\p{N}))?|\p{N}(?: (?=\p{N}))?| ?[^\s\p{L}\p{N}]+(?:[\r\n]+| (?=\p{N}))?"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer() -> Tokenizer:
    """Train a byte-level BPE on training problems and their solutions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=[END_OF_TEXT, START, END, STEP_TAG],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    stories = islice(draw(Split.TRAIN), _STORIES)
    texts = chain.from_iterable((f"Problem: {story.question}{SEPARATOR}", join_steps(story.steps)) for story in stories)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer

"""Trains the tokenizer that all models share."""

from __future__ import annotations

from itertools import chain, islice

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from recipe.problems.drawing import Split, draw
from shared.domain.text import SEPARATOR, STEP_TAG, join_steps

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
"""Special tokens besides the step tag: padding, unused, end of a solution."""

PAD_ID, END_ID, STEP_TAG_ID = 0, 2, 3
"""Ids of padding, end and tag; 1 is unused."""

_STORIES = 4000

# Exactly Qwen's pattern: transformers and vLLM substitute it for any other pattern of a Qwen2 model.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer() -> Tokenizer:
    """Train a byte-level BPE on training problems and their solutions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
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

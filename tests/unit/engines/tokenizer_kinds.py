r"""Small tokenizers of the kinds that models have; they differ in how they encode a blank line.

======== ==================== ==================== ============================================================
kind     `a.\n\n` at the end  `a.\n\nB`            as in
======== ==================== ==================== ============================================================
gpt2     a . \n\n             a . \n \n B          GPT-2, SmolLM, StarCoder, Granite, NeoX
qwen     a .\n\n              a .\n\n B            Qwen
colon    a .\n\n              a .\n\n B            Llama 3, with `:\n\n` and numbers of three digits as tokens
bytes    _a . \n \n           _a . \n \n B         Llama 2, Mistral: newlines are bytes, a text begins with a space
newlines _a . \n\n            _a . \n\n B          Gemma: newlines are tokens, nothing is split before them
merging  a . \n \n            a . \n \nB           none that is known: a newline merges with a capital letter
======== ==================== ==================== ============================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from shared.domain.thoughts import CLOSES, OPENS
from shared.engines.solution_ids import SolutionEncoder

END = "<|im_end|>"
SPECIALS = ["<|endoftext|>", "<|im_start|>", END]

_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA = _QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

_SENTENCES = [
    "First we add the numbers.", "So the sum is 12.", "We have:", "This gives the answer:", "Then we add 3 and 4",
    "Problem: Kim has 12 coins and finds 3 more. How many coins does Kim have?", "The answer is", "### Step 1", "- one",
]  # fmt: skip
_CORPUS = [
    *(f"{one}{blank}" for one in _SENTENCES for blank in ("", "\n", "\n\n")),
    *("\n\n".join((one, other)) for one in _SENTENCES for other in _SENTENCES),
]


def _byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        min_frequency=1,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _regexp(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _with_merges(tokenizer: Tokenizer, *merges: tuple[str, str]) -> Tokenizer:
    """Make merges the first ones of a byte-level tokenizer."""
    described = json.loads(tokenizer.to_str())
    model = described["model"]
    for one, other in merges:
        model["vocab"].setdefault(one + other, len(model["vocab"]))
    model["merges"] = [list(merge) for merge in merges] + [
        each for each in model["merges"] if each not in map(list, merges)
    ]
    return Tokenizer.from_str(json.dumps(described))


def _metaspace(*newlines: str) -> Tokenizer:
    """Make a tokenizer as SentencePiece does, in which newlines are bytes, or tokens of some lengths."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    trainer = trainers.BpeTrainer(vocab_size=150, min_frequency=1, show_progress=False)
    trained.train_from_iterator([line for text in _CORPUS for line in text.split("\n")], trainer)
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", END, *(f"<0x{byte:02X}>" for byte in range(256)), *newlines, *model["vocab"]]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in model["merges"]]
    merges += [("\n", one) for one in newlines if "\n" + one in newlines]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in ("<unk>", "<s>", END)])
    return tokenizer


_KINDS: Mapping[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "qwen": lambda: _byte_level(_regexp(_QWEN)),
    "colon": lambda: _byte_level(_regexp(_LLAMA)),
    "bytes": _metaspace,
    "newlines": lambda: _metaspace("\n", "\n\n", "\n\n\n"),
    "merging": lambda: _with_merges(_byte_level(_regexp(r"\n?\p{Lu}?[^\n]*")), ("Ċ", "A"), ("Ċ", "T"), ("Ċ", "W")),
}
KINDS = tuple(_KINDS)
THINKING = "thinking"
"""As gpt2, with the tags of thinking as tokens that are not called special, as Qwen's."""
BYTE_LEVEL = ("gpt2", "qwen", "colon")
"""Kinds that the embedded engine takes."""


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    if kind != THINKING:
        return _KINDS[kind]()
    tokenizer = _KINDS["gpt2"]()
    tokenizer.add_tokens([OPENS, CLOSES])
    return tokenizer


def encode(kind: str, text: str) -> list[int]:
    return list(tokenizer_of(kind).encode(text, add_special_tokens=False).ids)


def encoder_of(kind: str) -> SolutionEncoder:
    """Make an encoder that remembers nothing yet."""
    tokenizer = tokenizer_of(kind)
    return SolutionEncoder(
        lambda text: encode(kind, text), lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)
    )

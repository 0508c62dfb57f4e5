"""How text is kept from spelling special tokens."""

from __future__ import annotations

import pytest

from shared.engines.special_tokens import as_plain_text


@pytest.mark.parametrize(
    "token",
    [
        "<extra_0>", "<extra_17>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|reserved_special_token_5|>",
        "<｜end▁of▁sentence｜>", "<s>", "</s>", "<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>",
        "[INST]", "[/INST]", "[TOOL_CALLS]", "[/SYSTEM_PROMPT]", "[IMG]",
    ],
)  # fmt: skip
def test_no_special_token_is_left(token: str) -> None:
    plain = as_plain_text(f"a{token}b <{token}{token} <|<{token} [{token}")
    assert token not in plain
    assert plain.replace("\u200b", "") == f"a{token}b <{token}{token} <|<{token} [{token}"
    assert as_plain_text(plain) == plain


@pytest.mark.parametrize(
    "text",
    [
        "a < b",
        "|x| <|y|",
        "|x|<|y| and |z|>1",
        "<b>bold</b>",
        "<sum>",
        "x <- y",
        "<|>",
        "[AB] + [CD]",
        "[1, 2]",
        "[inst]",
        "[INST",
        "",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert as_plain_text(text) == text

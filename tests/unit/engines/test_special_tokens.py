"""How text is kept from spelling special tokens."""

from __future__ import annotations

import pytest

from shared.engines.special_tokens import as_plain_text, is_special


@pytest.mark.parametrize(
    "token",
    [
        "<extra_0>", "<extra_17>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|reserved_special_token_5|>",
        "<｜end▁of▁sentence｜>", "<s>", "</s>", "<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>",
        "<|turn>", "<turn|>", "<|tool_call>", "<tool_response|>", "<|channel>", "<|channel|>", '<|"|>', "<|constrain|>",
        "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<arg_key>",
        "<start_of_image>", "<end_of_image>", "<image_soft_token>", "<unused0>", "<mask>", "<sop>", "<|eot_id|>",
        "<|header_start|>", "<|im_sep|>", "<|start_of_role|>", "<|im_middle|>", "<|tool_calls_section_begin|>",
        "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜tool▁calls▁begin｜>", "｜DSML｜", "<extra_id_0>", "<fim_prefix>",
        "<seed:think>", "</seed:tool_call>", "<BOS_TOKEN>", "<PAD>", "<SPECIAL_12>", "<<SYS>>", "<</SYS>>", "<role>",
        "[gMASK]", "[MASK]", "[EOS]", "[EOT]", "[start_header_id]", "[THINK]", "[/THINK]", "[UNUSED_TOKEN_145]",
        "]~b]", "]~!b[", "[e~[",
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
        "<i>x</i> <u>y</u> <table> <br> <sup>2</sup>",
        "The price is <s>5</s> 4, <s>no longer 6</s>.",
        "a < s > b",
        "a <s b, b< /s> c",
        "x<|y>",
        "<0|1> and <a|>",
        "<thinks> <rethink> <tool>",
        "<student> <end> <start_of_day>",
        "either/nothing",
        "[MASKED] [mask] [BOSS]",
        "a]~b",
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


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("5</s>", "5<\u200b/s>"),
        ("<s>5", "<\u200bs>5"),
        ("<s>5\n</s>", "<\u200bs>5\n<\u200b/s>"),
        ("<s></s>", "<\u200bs><\u200b/s>"),
        ("<s>5</s></s>", "<s>5</s><\u200b/s>"),
        ("<s>[INST] 5 [/INST]</s>", "<\u200bs>[\u200bINST] 5 [\u200b/INST]<\u200b/s>"),
        ("<s>a<|im_end|></s>", "<\u200bs>a<\u200b|im_end|><\u200b/s>"),
        ("Think. /nothink", "Think. /\u200bnothink"),
    ],
)
def test_html_that_strikes_out_text_stays_and_a_tag_without_the_other_does_not(text: str, plain: str) -> None:
    assert as_plain_text(text) == plain


@pytest.mark.parametrize(
    ("token", "expected"), [("<think>", True), ("</tool_call>", True), ("\n\n", False), ("<b>", False)]
)
def test_a_token_is_known_as_special_by_its_spelling(token: str, expected: bool) -> None:
    assert is_special(token) is expected

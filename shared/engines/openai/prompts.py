r"""The bodies of requests, for each prompt style.

`completions` sends raw text that the model continues. `chat` sends the solution so far as a last message that the model
continues; vLLM and SGLang support this, if the model's chat template keeps the blank line at the end of the message.
`chat-next-step` asks for one step in words, for servers that support neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, assert_never

from shared.domain.text import STOPS
from shared.engines.openai.blank_line import BlankLine, shortened
from shared.engines.openai.saying_done import DONE
from shared.engines.port import GenerationRequest
from shared.engines.prompts import fill, request_seed, solving
from shared.engines.special_tokens import as_plain_text

Style = Literal["completions", "chat", "chat-next-step"]

PATHS: Mapping[Style, str] = {
    "completions": "/completions",
    "chat": "/chat/completions",
    "chat-next-step": "/chat/completions",
}

LOGPROBS: Mapping[Style, Mapping[str, Any]] = {
    "completions": {"logprobs": 1},
    "chat": {"logprobs": True, "top_logprobs": 1},
    "chat-next-step": {"logprobs": True, "top_logprobs": 1},
}
"""Fields with which a request asks for the log-probability of each drawn token. With 1, the server also sends that of
the likeliest token, which is not used; with 0, llama.cpp's server would send none."""

_NEXT_STEP = (
    "You are given a problem and the first steps of its solution, which may be none yet. Write only the next step: one"
    " short paragraph without a blank line in it, and nothing else. If it completes the solution, put the final answer"
    " within \\boxed{}, otherwise write no \\boxed{}. If the solution so far is complete already, write only"
    f" {DONE}."
)


def body(
    style: Style,
    request: GenerationRequest,
    *,
    template: str,
    so_far: str,
    max_tokens: int,
    blank_line: BlankLine = BlankLine.WHOLE,
    stops: bool = True,
) -> dict[str, Any]:
    """Make the body of the request that continues a solution.

    Args:
        style: Prompt style.
        request: The call; its prefix is ignored.
        template: Template of the prompt, for `completions`.
        so_far: The solution so far, separators included.
        max_tokens: Maximum number of tokens to write.
        blank_line: What the prompt keeps of a blank line at its end.
        stops: Whether the server stops at a blank line.
    """
    so_far = as_plain_text(so_far)
    common = _fields(request, so_far, max_tokens)
    if stops:
        common["stop"] = list(STOPS)
    # vLLM and SGLang then report exact counts in each chunk; under load, a chunk contains several tokens.
    counting = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    # -1 is no limit; without the field, servers use the model's default.
    continuing = common | counting | {"top_k": request.sampling.top_k or -1}
    match style:
        case "completions":
            return continuing | {"prompt": _continued_text(fill(template, request.question), so_far, blank_line)}
        case "chat":
            return continuing | _continued_message(request.question, shortened(so_far, blank_line))
        case "chat-next-step":
            return common | {"messages": _next_step(request.question, so_far)}
        case _:
            assert_never(style)


def _fields(request: GenerationRequest, so_far: str, max_tokens: int) -> dict[str, Any]:
    """Make the fields of every body."""
    sampling = request.sampling
    return {
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request_seed(sampling.seed, len(so_far)),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _continued_text(before: str, so_far: str, blank_line: BlankLine) -> str:
    """Return the prompt; a space at its end is left out, because many tokenizers encode it with the next word."""
    return shortened(before + so_far if so_far else before.rstrip(" \t"), blank_line)


def _continued_message(question: str, so_far: str) -> dict[str, Any]:
    messages = solving(question)
    if not so_far.strip():
        return {"messages": messages}
    messages.append(_message("assistant", so_far))
    return {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}


def _next_step(question: str, so_far: str) -> list[dict[str, str]]:
    problem = f"Problem:\n{as_plain_text(question)}\n\nSolution so far:\n{so_far.strip() or '(nothing yet)'}"
    return [_message("system", _NEXT_STEP), _message("user", problem)]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}

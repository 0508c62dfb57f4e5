r"""What is asked of a server in each style.

`completions` sends raw text, for any model that goes on with it. `chat` has the server put the solution so far into its
chat template as a last message to be continued: vLLM and SGLang can; the template must keep the blank line at its end.
`chat-next-step` asks for one step in words, for servers that can do neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from shared.domain.text import SEPARATOR
from shared.engines.port import GenerationRequest
from shared.engines.prompts import fill, request_seed, solving
from shared.engines.special_tokens import as_plain_text

Style = Literal["completions", "chat", "chat-next-step"]

PATHS: Mapping[Style, str] = {
    "completions": "/completions",
    "chat": "/chat/completions",
    "chat-next-step": "/chat/completions",
}

_NEXT_STEP = (
    "You are given a problem and the first steps of its solution, which may be none yet. Write only the next step: one"
    " short paragraph without a blank line in it, and nothing else. If it completes the solution, put the final answer"
    " within \\boxed{}, otherwise write no \\boxed{}."
)


def body(style: Style, request: GenerationRequest, *, template: str, so_far: str, max_tokens: int) -> dict[str, Any]:
    """Make the request for what follows.

    Args:
        style: The way to ask.
        request: The call; its prefix is not looked at.
        template: Of the prompt, for `completions`.
        so_far: The solution up to now, separators included.
        max_tokens: Tokens to write at most.
    """
    sampling = request.sampling
    so_far = as_plain_text(so_far)
    asked: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request_seed(sampling.seed, len(so_far)),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if style == "chat-next-step":
        # No stop string here: it would also cut where a blank line ends no step.
        problem = (
            f"Problem:\n{as_plain_text(request.question)}\n\nSolution so far:\n{so_far.strip() or '(nothing yet)'}"
        )
        return asked | {"messages": [_message("system", _NEXT_STEP), _message("user", problem)]}
    asked |= {
        "top_k": sampling.top_k or -1,  # No limit; without it, servers take the model's own default.
        "stop": [SEPARATOR],
        # Of vLLM and SGLang: they merge tokens into one chunk under load, so that chunks alone say too little.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if style == "completions":
        return asked | {"prompt": fill(template, request.question) + so_far}
    messages = solving(request.question)
    if not so_far.strip():
        return asked | {"messages": messages}
    messages.append(_message("assistant", so_far))
    return asked | {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}

"""What models are asked with, by any engine that is given a text or messages."""

from __future__ import annotations

import hashlib

from shared.engines.special_tokens import as_plain_text

_SOLVE = (
    "Solve the problem step by step. Put a blank line between two steps and none within a step."
    " Put the final answer within \\boxed{}."
)


def fill(template: str, question: str) -> str:
    """Put a question into a prompt's template."""
    return template.replace("{question}", as_plain_text(question))


def solving(question: str) -> list[dict[str, str]]:
    """Make the messages that a chat model's solution follows."""
    return [{"role": "system", "content": _SOLVE}, {"role": "user", "content": as_plain_text(question)}]


def request_seed(seed: int, position: int) -> int:
    """Derive the seed of one request, 0 to 2^31 - 1, from the problem's and from where in the solution it goes on.

    Servers and engines begin their random numbers anew with each request: with the same seed, every step would be
    drawn by the same ones.
    """
    digest = hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1

"""Writes steps with a model behind an OpenAI-compatible server."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.text import SEPARATOR, join_steps, split_step
from shared.engines.assembly import StepAssembler
from shared.engines.openai.answers import Written, read_completion
from shared.engines.openai.prompts import PATHS, Style, body
from shared.engines.openai.server import Server
from shared.engines.port import GeneratedStep, GenerationRequest, RequestRefused


class OpenAIGenerator:
    """Writes each step with a request of its own that stops at the separator.

    One request for many steps would have to be cut off after the last of them, and what is cut off reports no usage:
    then nobody would know what the tokens were. The server's prefix cache makes up for the repeated input where there
    is one; each request's input is counted as the server counts it. A step takes more than one request where a blank
    line does not end it (inside a code fence, say), and where the model had nothing to say and is asked once more.
    """

    def __init__(self, server: Server, *, style: Style, template: str) -> None:
        r"""Take a server.

        Args:
            server: Where the model is served; closed with the engine.
            style: How to ask for a step, see `prompts`.
            template: Of the prompt in the style `completions`, with `{question}` in it; steps follow it.
        """
        self._server = server
        self._style = style
        self._template = template

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return f"openai/{self._server.endpoint.model}"

    def stream(self, request: GenerationRequest, cancellation: Cancellation) -> Generator[GeneratedStep, None, None]:
        """Yield steps as they finish; see `Generator.stream`, and `Server.ask` for the errors of the server.

        Raises:
            RequestRefused: The model does not go on from a message that ends in a blank line.
        """
        assembler = StepAssembler(request, prompt_tokens=0, cached_tokens=0)
        steps = list(request.prefix)
        while not assembler.is_done:
            deadline = time.monotonic() + request.step_timeout_s
            said_nothing, unfinished, spent, step = "", "", 0, None
            while step is None:
                asked = body(
                    self._style,
                    request,
                    template=self._template,
                    so_far=join_steps(steps) + said_nothing + unfinished,
                    max_tokens=request.max_step_tokens - spent,
                )
                written = self._write(asked, cancellation, deadline)
                assembler.prompt_tokens += written.prompt_tokens
                assembler.cached_tokens += written.cached_tokens
                spent += written.tokens
                piece, finish = self._first_step(unfinished, written, is_first=not steps)
                if self._style == "chat" and steps and said_nothing + piece == 2 * SEPARATOR:
                    self._refuse_template()
                unfinished += piece
                step = _feed(assembler, piece, finish, written.tokens)
                if split_step(unfinished) is not None:  # the assembler has dropped it, or it is a step by now
                    said_nothing, unfinished = said_nothing + unfinished, ""
            yield step
            steps.append(step.text)

    def check(self) -> None:
        """Do nothing: a server that is away may come back."""

    def close(self) -> None:
        """End the connection; calls that still run raise `EngineStopped`."""
        self._server.close()

    def _write(self, asked: Mapping[str, Any], cancellation: Cancellation, deadline: float) -> Written:
        place = self._server.endpoint
        return self._server.ask(
            place.url + PATHS[self._style],
            {"model": place.model, **asked},
            read_completion,
            cancellation=cancellation,
            deadline=deadline,
        )

    def _refuse_template(self) -> NoReturn:
        place = self._server.endpoint
        raise RequestRefused(
            f"{place.model} wrote nothing but a blank line after a step, twice: its chat template cuts off the one that"
            f" the step ends in, as Llama's does; set {place.style_setting} to completions, and TRIM_PROMPT to what"
            " the model was trained on."
        )

    def _first_step(self, unfinished: str, written: Written, *, is_first: bool) -> tuple[str, Finish]:
        """Cut off what follows the first step, where a server or a model does not stop there."""
        text, finish = written.text, written.finish
        if self._style == "chat-next-step":
            text = text.lstrip()
            if finish is not Finish.LENGTH:
                finish = Finish.SEPARATOR  # the end of such a message is the end of a step, not of the solution
        elif finish is Finish.SEPARATOR and not (text or written.is_named or is_first or unfinished):
            finish = Finish.ENDED  # a model that has ended says nothing when it is asked for more
        if (parts := split_step(unfinished + text)) is not None:
            return text[: len(text) - len(parts[1])], Finish.SEPARATOR
        return (text + SEPARATOR if finish is Finish.SEPARATOR else text), finish


def _feed(assembler: StepAssembler, piece: str, finish: Finish, tokens: int) -> GeneratedStep | None:
    """Hand what was written to the assembler; return the step that it finishes, if any."""
    if finish is Finish.ENDED:
        assembler.feed(piece, tokens=0)
        return assembler.end(tokens)
    step = assembler.feed(piece, tokens)
    if step is None and finish is Finish.LENGTH:  # of the context, not of the step
        return replace(assembler.end(tokens=0), finish=Finish.LENGTH)
    return step

"""Writes steps with a model behind an OpenAI-compatible server."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.text import SEPARATOR, join_steps, split_step
from shared.engines.openai.completions import Completion, read_completion
from shared.engines.openai.prompts import PATHS, Style, body
from shared.engines.openai.server import Server
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, RequestRefused
from shared.engines.step_assembly import StepAssembler


class OpenAIGenerator:
    """Writes each step with its own request, which stops at the separator.

    A single request for many steps would have to be aborted after the last one, and an aborted request reports no
    usage. The server's prefix cache, where there is one, makes up for the repeated input; each request's input is
    counted as the server reports it. A step takes more than one request if a blank line does not end it (inside a code
    fence, for example), or if the model wrote no words and is asked once more.
    """

    def __init__(self, server: Server, *, style: Style, template: str) -> None:
        r"""Take a server.

        Args:
            server: Serves the model; the generator closes it.
            style: How the model is prompted; see `prompts`.
            template: Template of the prompt in the style `completions`, with `{question}` in it; the steps follow it.
        """
        self._server = server
        self._style = style
        self._template = template

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return f"openai/{self._server.endpoint.model}"

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> Generator[GeneratedStep, None, None]:
        """Yield steps as they finish; see `Generator.stream`, and `Server.request` for the errors of the server.

        For a request that did not finish, the meter has the tokens that were received: an estimate, because the server
        decodes more until it notices. Its input is not counted, because servers report only at the end how much of it
        was cached.

        Raises:
            RequestRefused: The model does not continue a message that ends in a blank line.
        """
        assembler = StepAssembler(request, meter)
        writing = _Writing(self._server, self._style, self._template, request, cancellation, assembler)
        yield from assembler.deliver(writing.steps())

    def check(self) -> None:
        """Do nothing: a server that is away may come back."""

    def close(self) -> None:
        """Close the connections; running calls raise `EngineStopped`."""
        self._server.close()


@dataclass(slots=True)
class _Writing:
    """A call of `stream`."""

    server: Server
    style: Style
    template: str
    request: GenerationRequest
    cancellation: Cancellation
    assembler: StepAssembler

    def steps(self) -> Generator[GeneratedStep, None, None]:
        texts = list(self.request.prefix)
        while not self.assembler.is_done:
            step = self._step(texts)
            yield step
            texts.append(step.text)

    def _step(self, before: list[str]) -> GeneratedStep:
        """Write the step that follows the steps before it."""
        deadline = time.monotonic() + self.request.step_timeout_s
        blank, unfinished, step = "", "", None
        while step is None:
            completion = self._complete(join_steps(before) + blank + unfinished, deadline)
            self.assembler.count_input(completion.prompt_tokens, completion.cached_tokens)
            text, finish = self._first_step(unfinished, completion, is_first=not before)
            step = self._feed(text, finish, completion.tokens)
            if self.style == "chat" and before and blank + text == 2 * SEPARATOR:
                self._refuse_template()
            unfinished += text
            if split_step(unfinished) is not None:  # The assembler dropped it, or it is the step.
                blank, unfinished = blank + unfinished, ""
        return step

    def _complete(self, so_far: str, deadline: float) -> Completion:
        endpoint = self.server.endpoint
        max_tokens = self.request.max_step_tokens - self.assembler.step_tokens
        asked = body(self.style, self.request, template=self.template, so_far=so_far, max_tokens=max_tokens)
        return self.server.request(
            endpoint.url + PATHS[self.style],
            {"model": endpoint.model, **asked},
            partial(read_completion, streamed=self.assembler.count_streamed),
            cancellation=self.cancellation,
            deadline=deadline,
        )

    def _first_step(self, unfinished: str, completion: Completion, *, is_first: bool) -> tuple[str, Finish]:
        """Cut off the text after the first step, for servers and models that do not stop there."""
        text, finish = completion.text, completion.finish
        if self.style == "chat-next-step":
            text = text.lstrip()
            if finish is not Finish.LENGTH:
                finish = Finish.SEPARATOR  # The message ends with the step, not with the solution.
        elif finish is Finish.SEPARATOR and not (text or completion.names_stop or is_first or unfinished):
            finish = Finish.ENDED  # A model that has ended writes nothing when it is asked to continue.
        if (parts := split_step(unfinished + text)) is not None:
            return text[: len(text) - len(parts[1])], Finish.SEPARATOR
        return (text + SEPARATOR if finish is Finish.SEPARATOR else text), finish

    def _feed(self, text: str, finish: Finish, tokens: int) -> GeneratedStep | None:
        if finish is Finish.ENDED:
            self.assembler.feed(text, tokens=0)
            return self.assembler.end(tokens)
        step = self.assembler.feed(text, tokens)
        if step is None and finish is Finish.LENGTH:  # The context is full, not the step.
            return replace(self.assembler.end(tokens=0), finish=Finish.LENGTH)
        return step

    def _refuse_template(self) -> None:
        endpoint = self.server.endpoint
        raise RequestRefused(
            f"{endpoint.model} wrote nothing but a blank line after a step, twice: its chat template strips the blank"
            f" line that ends the step, as Llama's does; set {endpoint.style_setting} to completions, and TRIM_PROMPT"
            " to the prompt that the model was trained on."
        )

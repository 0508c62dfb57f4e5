"""Writes steps with a model behind an OpenAI-compatible server."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.text import SEPARATOR, join_steps, split_step
from shared.engines.openai.completions import Completion, read_completion
from shared.engines.openai.prompts import LOGPROBS, PATHS, Style, body
from shared.engines.openai.server import Server
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, RequestRefused
from shared.engines.step_assembly import StepAssembler
from shared.log import get_logger

_log = get_logger(__name__)


class OpenAIGenerator:
    """Writes each step with its own request, which stops at the separator.

    A single request for many steps would have to be aborted after the last one, and an aborted request reports no
    usage. The server's prefix cache, where there is one, makes up for the repeated input; each request's input is
    counted as the server reports it. A step takes more than one request if a blank line does not end it (inside a code
    fence, for example), or if the model wrote no words and is asked once more.

    Log-probabilities are those that the server reports. The first refusal to report them is remembered: later requests
    do without, and their steps have none. Neither has a step whose text had to be cut out of a longer one.
    """

    def __init__(self, server: Server, *, style: Style, template: str) -> None:
        r"""Take a server.

        Args:
            server: Serves the model; the generator closes it.
            style: How the model is prompted; see `prompts`.
            template: Template of the prompt in the style `completions`, with `{question}` in it; the steps follow it.
        """
        self._served = _ServedModel(server, style, template)

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return f"openai/{self._served.server.endpoint.model}"

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
        writing = _Writing(self._served, request, cancellation, assembler)
        yield from assembler.deliver(writing.steps())

    def check(self) -> None:
        """Do nothing: a server that is away may come back."""

    def close(self) -> None:
        """Close the connections; running calls raise `EngineStopped`."""
        self._served.server.close()


@dataclass(slots=True)
class _ServedModel:
    """The model on its server, for all calls."""

    server: Server
    style: Style
    template: str
    refuses_logprobs: bool = False
    """Whether the server refused a request because it asked for log-probabilities."""


@dataclass(slots=True)
class _Writing:
    """A call of `stream`."""

    model: _ServedModel
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
            completion = self._first_step(unfinished, completion, is_first=not before)
            step = self._feed(completion)
            if self.model.style == "chat" and before and blank + completion.text == 2 * SEPARATOR:
                self._refuse_template()
            unfinished += completion.text
            if split_step(unfinished) is not None:  # The assembler dropped it, or it is the step.
                blank, unfinished = blank + unfinished, ""
        return step

    def _complete(self, so_far: str, deadline: float) -> Completion:
        model = self.model
        max_tokens = self.request.max_step_tokens - self.assembler.step_tokens
        asked = body(model.style, self.request, template=model.template, so_far=so_far, max_tokens=max_tokens)
        if not self.request.reports_confidence or model.refuses_logprobs:
            return self._send(asked, deadline)
        try:
            return self._send({**asked, **LOGPROBS[model.style]}, deadline)
        except RequestRefused:
            completion = self._send(asked, deadline)  # Is refused, too, if something else is wrong.
        model.refuses_logprobs = True
        _log.warning("logprobs_refused", model=model.server.endpoint.model)
        return completion

    def _send(self, asked: Mapping[str, Any], deadline: float) -> Completion:
        endpoint = self.model.server.endpoint
        return self.model.server.request(
            endpoint.url + PATHS[self.model.style],
            {"model": endpoint.model, **asked},
            partial(read_completion, streamed=self.assembler.count_streamed),
            cancellation=self.cancellation,
            deadline=deadline,
        )

    def _first_step(self, unfinished: str, completion: Completion, *, is_first: bool) -> Completion:
        """Cut off the text after the first step, for servers and models that do not stop there."""
        text, finish, logprobs = completion.text, completion.finish, completion.logprobs
        if self.model.style == "chat-next-step":
            text = text.lstrip()
            if finish is not Finish.LENGTH:
                finish = Finish.SEPARATOR  # The message ends with the step, not with the solution.
        elif finish is Finish.SEPARATOR and not (text or completion.names_stop or is_first or unfinished):
            finish = Finish.ENDED  # A model that has ended writes nothing when it is asked to continue.
        if (parts := split_step(unfinished + text)) is not None:
            if rest := parts[1]:  # Servers do not report reliably which tokens belong to which part of the text.
                text, logprobs = text[: len(text) - len(rest)], None
            finish = Finish.SEPARATOR
        elif finish is Finish.SEPARATOR:
            text += SEPARATOR
        return replace(completion, text=text, finish=finish, logprobs=logprobs)

    def _feed(self, completion: Completion) -> GeneratedStep | None:
        text, tokens, logprobs = completion.text, completion.tokens, completion.logprobs
        if completion.finish is Finish.ENDED:
            self.assembler.feed(text, tokens=0)
            return self.assembler.end(tokens, logprobs=logprobs)
        step = self.assembler.feed(text, tokens, logprobs=logprobs)
        if step is None and completion.finish is Finish.LENGTH:  # The context is full, not the step.
            return replace(self.assembler.end(tokens=0), finish=Finish.LENGTH)
        return step

    def _refuse_template(self) -> None:
        endpoint = self.model.server.endpoint
        raise RequestRefused(
            f"{endpoint.model} wrote nothing but a blank line after a step, twice: its chat template strips the blank"
            f" line that ends the step, as Llama's does; set {endpoint.style_setting} to completions, and TRIM_PROMPT"
            " to the prompt that the model was trained on."
        )

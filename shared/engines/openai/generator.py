"""Writes steps with a model behind an OpenAI-compatible server."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn

from shared.cancellation import Cancellation
from shared.domain.answers import boxed_answer
from shared.domain.drafts import Finish
from shared.domain.text import SEPARATOR, STOPS, extend_digest, split_step
from shared.engines.openai.blank_line import QUESTION as PROBE
from shared.engines.openai.blank_line import BlankLine, TemplateStrips, find_blank_line, shortened
from shared.engines.openai.completions import Completion, read_completion
from shared.engines.openai.errors import BodyRefused
from shared.engines.openai.made_up import before_made_up
from shared.engines.openai.prompts import LOGPROBS, PATHS, Style, body
from shared.engines.openai.saying_done import says_complete, without_done
from shared.engines.openai.server import Server
from shared.engines.openai.unthinking import (
    Channel,
    Unthinking,
    as_text,
    is_inside,
    keep_tags,
    plain_step,
    with_tags,
    without_inserted,
    without_stand_ins,
)
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, ThinkingTookAll
from shared.engines.prompts import fill
from shared.engines.step_assembly import StepAssembler
from shared.engines.thinking import THINKING_ID, Thinking, Thoughts, Transcript, template_arguments
from shared.engines.written import Written
from shared.log import get_logger

_log = get_logger(__name__)

_REMEMBERED = 4_000_000
"""Number of characters that are remembered."""


class OpenAIGenerator:
    """Writes each step with its own request, which stops at the separator.

    A single request for many steps would have to be aborted after the last one, and an aborted request reports no
    usage. The server's prefix cache, where there is one, makes up for the repeated input; each request's input is
    counted as the server reports it. A step takes more than one request if a blank line does not end it (inside a code
    fence, for example), or if the model wrote no words and is asked once more.

    Log-probabilities are those that the server reports. The first refusal to report them is remembered: later requests
    do without, and their steps have none. Neither has a step whose text had to be cut out of a longer one.
    """

    def __init__(self, server: Server, *, style: Style, template: str, thinking: Thinking | None = None) -> None:
        r"""Take a server.

        Args:
            server: Serves the model; the generator closes it.
            style: How the model is prompted; see `prompts`.
            template: Template of the prompt in the style `completions`, with `{question}` in it; the steps follow it.
            thinking: What becomes of what the model thinks; `None` drops it, and does not ask the model not to think.
        """
        self._served = _ServedModel(server, style, template, thinking)

    @property
    def model_id(self) -> str:
        """Name of the model."""
        name = f"openai/{self._served.server.endpoint.model}"
        return name + THINKING_ID if self._served.thinking == "steps" else name

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> Generator[GeneratedStep, None, None]:
        """Yield steps as they finish; see `Generator.stream`, and `Server.request` for the errors of the server.

        For a request that did not finish, the meter has the tokens that were received: an estimate, because the server
        decodes more until it notices. Its input is not counted, because servers report only at the end how much of it
        was cached.

        Raises:
            TemplateStrips: The chat template strips the blank line at the end of a step.
            ThinkingTookAll: The model thinks, and has no tokens left to write a step.
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
    thinking: Thinking | None
    channel: Channel = field(default_factory=Channel)
    refuses_logprobs: bool = False
    """Whether the server refused a request because it asked for log-probabilities."""
    blank_line: BlankLine | None = None
    """What a prompt keeps of a blank line at its end; `None` until that is found out."""
    written: Written[str] = field(default_factory=lambda: Written(_REMEMBERED))
    """The text that the model wrote for each step, white space and separator included."""


@dataclass(slots=True)
class _Writing:
    """A call of `stream`."""

    model: _ServedModel
    request: GenerationRequest
    cancellation: Cancellation
    assembler: StepAssembler

    def steps(self) -> Generator[GeneratedStep, None, None]:
        digest, transcript = extend_digest("", self.request.question), Transcript(self.model.thinking, plain_step)
        so_far, *pieces = map(keep_tags, transcript.write(self.request.prefix))
        self.assembler.thoughts = Thoughts.after(transcript)
        for text, piece in zip(self.request.prefix, pieces, strict=True):
            digest = extend_digest(digest, text)
            so_far += self.model.written.recall(digest) or piece
        is_first = not self.request.prefix
        while not self.assembler.is_done:
            step, written = self._step(so_far, is_first=is_first)
            if step.finish is Finish.SEPARATOR:
                digest = extend_digest(digest, step.text)
                # A message that ends with its step is no text that the model goes on from.
                if self.model.style == "chat-next-step":
                    written = step.text + SEPARATOR
                else:
                    self.model.written.remember(digest, written)
            so_far, is_first = so_far + written, False
            yield step

    def _step(self, before: str, *, is_first: bool) -> tuple[GeneratedStep, str]:
        """Write the step that follows the text of the steps before it; also returns the step as it was written."""
        deadline = time.monotonic() + self.request.step_timeout_s
        setting = self.model.server.endpoint.thinking_setting
        unthinking = Unthinking(self.model.channel, setting, is_first=is_first)
        blank, unfinished, step = "", "", None
        while step is None:
            received = self._complete(
                before + blank + keep_tags(unthinking.raw) + unfinished,
                unfinished,
                deadline,
                stops=not unthinking.raw,
            )
            completion = self._without_thoughts(received, unthinking)
            if completion is None:
                self.assembler.count_tokens(received.tokens, received.estimated_tokens)
                if self.assembler.step_tokens >= self.request.max_step_tokens:
                    raise ThinkingTookAll(setting)
                continue
            completion = self._first_step(unfinished, completion, is_first=is_first)
            step = self._feed(completion)
            if self.model.style == "chat" and not is_first and blank + completion.text == 2 * SEPARATOR:
                self._refuse_template()
            unfinished += self._kept(completion.text)
            if split_step(unfinished) is not None:  # The assembler dropped it, or it is the step.
                blank, unfinished = blank + unfinished, ""
        written = blank + unfinished
        return step, written if written.endswith(SEPARATOR) else written.rstrip() + SEPARATOR

    def _without_thoughts(self, completion: Completion, unthinking: Unthinking) -> Completion | None:
        if self.model.thinking == "steps":
            return as_text(completion, self.model.channel, is_thinking=self.assembler.thoughts.is_thinking)
        return unthinking.visible(completion)

    def _kept(self, text: str) -> str:
        """Return what the model wrote as further requests have it: with its tags, if its thoughts are steps."""
        text = without_stand_ins(text)
        return keep_tags(text) if self.model.thinking == "steps" else text

    def _complete(self, so_far: str, unfinished: str, deadline: float, *, stops: bool) -> Completion:
        """Have the model continue the solution so far, or write the next message."""
        stops = stops and self.model.channel.is_stopped and not self.assembler.thoughts.is_answering
        if self.model.style == "chat-next-step":
            completion = self._ask(so_far, deadline, stops=stops)
            if completion.finish is not Finish.SEPARATOR or not is_inside(unfinished, completion):
                return completion
            # A message cannot be continued, so it is requested once more, without a stop at the blank line.
            self.assembler.count_tokens(completion.tokens, completion.estimated_tokens)
            return self._ask(so_far, deadline, stops=False)
        text = so_far or (self._template_text() if self.model.style == "completions" else "")
        if shortened(text, self._blank_line(deadline)) == text:
            return self._ask(so_far, deadline, stops=stops)
        return self._with_left_out(so_far, deadline, stops=stops)

    def _with_left_out(self, so_far: str, deadline: float, *, stops: bool) -> Completion:
        """Have the model also write the newline that its prompt leaves out.

        With one more newline, that is a blank line for the server, which stops there, but none for the solution.
        """
        newlines = ""
        while True:
            completion = self._ask(so_far + newlines, deadline, stops=stops)
            if completion.text or not (completion.finish is Finish.SEPARATOR and completion.names_stop):
                return replace(completion, text=newlines + completion.text.removeprefix("\n"))
            newlines += "\n"
            if self.assembler.step_tokens + completion.tokens >= self.request.max_step_tokens:
                return replace(completion, text=newlines, finish=Finish.LENGTH)
            if newlines == SEPARATOR:
                return replace(completion, text=newlines)
            self.assembler.count_tokens(completion.tokens, completion.estimated_tokens)

    def _template_text(self) -> str:
        return fill(self.model.template, self.request.question).rstrip(" \t")

    def _ask(self, so_far: str, deadline: float, *, stops: bool = True) -> Completion:
        max_tokens = self.request.max_step_tokens - self.assembler.step_tokens
        completion = self._request(so_far, max_tokens, deadline, stops=stops)
        self.assembler.count_input(completion.prompt_tokens, completion.cached_tokens)
        return completion

    def _blank_line(self, deadline: float) -> BlankLine:
        """Find out once what a prompt keeps of a blank line at its end."""
        model = self.model
        if model.style == "chat-next-step":
            return BlankLine.WHOLE
        if model.blank_line is None:
            probe = replace(self.request, question=PROBE)

            def count(so_far: str) -> int:
                asked = body(model.style, probe, template=model.template, so_far=so_far, max_tokens=1)
                return self._send(self._with_arguments(asked), deadline).prompt_tokens

            try:
                model.blank_line = find_blank_line(count)
            except TemplateStrips:
                self._refuse_template()
            _log.info("blank_line_found", model=model.server.endpoint.model, kept=model.blank_line)
        return model.blank_line

    def _request(self, so_far: str, max_tokens: int, deadline: float, *, stops: bool) -> Completion:
        model = self.model
        asked = body(
            model.style,
            replace(self.request, question=without_stand_ins(self.request.question)),
            template=model.template,
            so_far=so_far,
            max_tokens=max_tokens,
            blank_line=self._blank_line(deadline),
            stops=stops,
        )
        asked = self._with_arguments(with_tags(asked))
        if not self.request.reports_confidence or model.refuses_logprobs:
            return self._send(asked, deadline)
        try:
            return self._send({**asked, **LOGPROBS[model.style]}, deadline)
        except BodyRefused:
            completion = self._send(asked, deadline)  # Is refused, too, if something else is wrong.
        model.refuses_logprobs = True
        _log.warning("logprobs_refused", model=model.server.endpoint.model)
        return completion

    def _with_arguments(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Add what the settings choose for the chat template."""
        arguments = template_arguments(self.model.thinking)
        return {**asked, "chat_template_kwargs": arguments} if arguments else asked

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
        text, finish, logprobs, rest = completion.text, completion.finish, completion.logprobs, ""
        if self.model.style == "chat-next-step":
            text, finish = self._read_reply(unfinished, text.lstrip(), finish)
        elif self.assembler.thoughts.is_answering:
            finish = Finish.ENDED if finish is Finish.SEPARATOR else finish  # Its requests have no stop strings.
        elif finish is Finish.SEPARATOR and not (completion.names_stop or self.assembler.thoughts.is_thinking):
            text, finish, rest = self._find_hidden_end(unfinished, text, is_first=is_first)
        if (parts := self.assembler.split(text)) is not None:
            text, rest = text[: len(text) - len(parts[1])], parts[1] + rest
            finish = Finish.SEPARATOR
        elif finish is Finish.SEPARATOR and not text.endswith(STOPS):  # Some servers include the stop string.
            text += SEPARATOR
        if rest:  # Servers do not report reliably which tokens belong to which part of the text.
            whole, completion = completion, completion.without_last(len(without_inserted(rest, self.model.channel)))
            cut_off = whole.tokens - completion.tokens, whole.estimated_tokens - completion.estimated_tokens
            self.assembler.count_cut_off(*cut_off)
            logprobs = None
        return replace(completion, text=text, finish=finish, logprobs=logprobs)

    def _find_hidden_end(self, unfinished: str, text: str, *, is_first: bool) -> tuple[str, Finish, str]:
        """Find the model's own end, which a server hides that does not name what the model stopped at.

        A model that has ended writes nothing when it is asked to continue, or it makes up another problem. Returns the
        text before the end, why the model stopped, and the text after the end.
        """
        if unfinished:
            return text, Finish.SEPARATOR, ""
        before = before_made_up(text, is_first=is_first)
        if before is not None:
            return before, Finish.ENDED, text[len(before) :]
        return text, Finish.SEPARATOR if text or is_first else Finish.ENDED, ""

    def _read_reply(self, unfinished: str, text: str, finish: Finish) -> tuple[str, Finish]:
        """Read a reply in the style `chat-next-step`, where a message ends with the step and not with the solution.

        The last step tells that it is the last one: by a box, as the prompt demands, or in words.
        """
        if finish is Finish.LENGTH:
            return text, finish
        said_before_done = without_done(text)
        step = text.rstrip() if said_before_done is None else said_before_done
        parts = split_step(unfinished + step)
        if parts is not None and parts[1]:
            return text, Finish.SEPARATOR  # It wrote further steps, and the end belongs to the last of them.
        has_box = boxed_answer(unfinished + step, question=self.request.question) is not None
        if said_before_done is not None or has_box or says_complete(step):
            return step, Finish.ENDED
        return text, Finish.SEPARATOR

    def _feed(self, completion: Completion) -> GeneratedStep | None:
        text, tokens = completion.text, completion.tokens
        estimated, logprobs = completion.estimated_tokens, completion.logprobs
        if completion.finish is Finish.ENDED:
            self.assembler.feed(text, tokens=0)
            return self.assembler.end(tokens, estimated=estimated, logprobs=logprobs)
        step = self.assembler.feed(text, tokens, estimated=estimated, logprobs=logprobs)
        if step is None and completion.finish is Finish.LENGTH:  # The context is full, not the step.
            return self.assembler.cut()
        return step

    def _refuse_template(self) -> NoReturn:
        endpoint = self.model.server.endpoint
        raise TemplateStrips(
            f"The chat template of {endpoint.model} strips the blank line that ends a step, as Llama's does; set"
            f" {endpoint.style_setting} to completions, and TRIM_PROMPT to the prompt that the model was trained on."
        )

"""Starts, calls and ends a model in an engine of vLLM."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar, assert_never

from tokenizers import Tokenizer

from shared.cancellation import Cancellation
from shared.domain.roles import WorkerRole
from shared.domain.thoughts import CLOSES, OPENS
from shared.engines.event_loop import EventLoop
from shared.engines.port import EngineDead, EngineFailed, InputTooLong, ModelUnusable, RequestRefused
from shared.engines.role_settings import model_of, model_variable
from shared.engines.special_tokens import is_special
from shared.engines.vllm.folders import check_folder
from shared.settings import Settings, UnusableSetting

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # Read when vLLM is imported.

from vllm import PoolingParams, SamplingParams
from vllm.config import PoolerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError, VLLMError
from vllm.inputs import tokens_input
from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

Answer = TypeVar("Answer")
Item = TypeVar("Item")

Runner = Literal["generate", "pooling"]
"""What vLLM does with a model: let it write, or return its output at each token of the input."""


class Model:
    """A model in its engine; its methods may be called from any thread."""

    def __init__(self, name: str, *, setting: str, runner: Runner, arguments: Mapping[str, Any]) -> None:
        """Start the engine, and wait until it has answered once.

        Args:
            name: Folder of the model, or its name on the model hub.
            setting: Name of the setting that chose the model, for error messages.
            runner: What vLLM does with the model.
            arguments: Arguments of the engine, by the names of vLLM's `AsyncEngineArgs`.

        Raises:
            ModelUnusable: The model's files are missing or damaged, the model does not suit the runner, or vLLM rejects
                the arguments.
        """
        self.name, self.setting = name, setting
        check_folder(Path(name), setting)
        self._loop = EventLoop(f"vllm-{Path(name).name}")
        try:
            self._engine = self._loop.run(_start(name, setting, runner, arguments), Cancellation())
            self.max_tokens: int = self._engine.model_config.max_model_len
            self.vocabulary: int = self._engine.model_config.get_vocab_size()
            self.tokenizer = self._copy_tokenizer()
            added = self.tokenizer.get_added_tokens_decoder().values()
            # Qwen's <think> is not called special, and neither is Gemma's blank line, which stays.
            special = [token.content for token in added if token.special or is_special(token.content)]
            self.tags = {
                token: tag for tag in (OPENS, CLOSES) if (token := self.tokenizer.token_to_id(tag)) is not None
            }
            """Tags of thinking that are one token, which the decoder may leave out as special."""
            self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")
            self._names = itertools.count()
            self._loop.run(self._warm_up(runner), Cancellation())
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, settings: Settings, role: WorkerRole, *, runner: Runner) -> Self:
        """Start the engine of a role with its settings.

        Raises:
            UnusableSetting: The arguments contain one that the worker decides.
            ModelUnusable: As for the class.
        """
        if decided := sorted(settings.vllm_args.keys() & {"model", "runner", "pooler_config", "logprobs_mode"}):
            raise UnusableSetting(
                f"TRIM_VLLM_ARGS may not contain {', '.join(decided)}, which the worker decides; choose models with"
                " TRIM_SMALL_MODEL, TRIM_LARGE_MODEL, TRIM_PRM_MODEL and TRIM_PRM_FORMAT."
            )
        arguments = {
            "max_num_seqs": settings.concurrency,
            # vLLM counts in the registry of this process, which exposes it.
            "disable_log_stats": settings.metrics_port is None,
            **settings.vllm_args,
        }
        return cls(model_of(settings, role), setting=model_variable(role), runner=runner, arguments=arguments)

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return f"vllm/{Path(self.name).name}"

    def plain(self, text: str) -> str:
        """Insert a zero-width space into each of the tokenizer's special tokens, as `as_plain_text` does."""
        return self._special.sub(lambda found: f"{found[0][0]}\N{ZERO WIDTH SPACE}{found[0][1:]}", text)

    def encode(self, text: str, *, is_beginning: bool = False) -> list[int]:
        """Encode text; text that spells a special token becomes that token.

        Args:
            text: Text to encode.
            is_beginning: Whether the model's input begins with the text; some tokenizers add a token there.
        """
        return list(self.tokenizer.encode(text, add_special_tokens=is_beginning).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids."""
        text: str = self.tokenizer.decode([*ids], skip_special_tokens=False)
        return text

    def refuse_unthinking(self) -> None:
        """Raise `ModelUnusable` if the chat template knows nothing of thinking."""
        template = getattr(self._engine.get_tokenizer(), "chat_template", None)
        if "think" not in str(template):
            role = self.setting.removesuffix("_MODEL")
            raise ModelUnusable(
                f"The chat template of {self.name} knows nothing of thinking; remove {role}_THINKING, or set"
                f" {self.setting} to a model that thinks."
            )

    def chat_prompt(
        self, messages: Sequence[Mapping[str, str]], arguments: Mapping[str, Any] = MappingProxyType({})
    ) -> str:
        """Fill the model's chat template with messages and the beginning of the model's reply.

        Args:
            messages: The messages.
            arguments: Further arguments of the template.

        Raises:
            ModelUnusable: The model has no chat template, or none for such messages.
        """
        try:
            prompt: str = self._engine.get_tokenizer().apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False, **arguments
            )
        except Exception as error:  # A template that rejects a system message may raise anything.
            raise ModelUnusable(
                f"The model {self.name} has no chat template for a system message and a question; set"
                " TRIM_PROMPT_STYLE to completions and TRIM_PROMPT to the prompt that it was trained on."
            ) from error
        return prompt

    def refuse_past(self, limit: int, ids: Sequence[int]) -> None:
        """Raise `InputTooLong` if there are more ids than the limit."""
        if len(ids) > limit:
            raise InputTooLong(
                f"Question and steps are {len(ids)} tokens long, but {self.model_id} takes {limit} at most; submit a"
                " shorter question, lower max_steps, or raise max_model_len in TRIM_VLLM_ARGS."
            )

    def run(self, coroutine: Coroutine[Any, Any, Answer], cancellation: Cancellation) -> Answer:
        """Run a coroutine beside the engine; see `EventLoop.run`."""
        return self._loop.run(coroutine, cancellation)

    def iterate(
        self, items: AsyncGenerator[Item, None], cancellation: Cancellation, *, timeout_s: float
    ) -> Generator[Item, None, None]:
        """Run an asynchronous generator beside the engine; see `EventLoop.iterate`."""
        return self._loop.iterate(items, cancellation, timeout_s=timeout_s)

    async def generate(self, ids: Sequence[int], sampling: SamplingParams) -> AsyncGenerator[RequestOutput, None]:
        """Yield what the model writes after some ids; closing the generator aborts the request.

        Tokens that the engine decoded and has not delivered by then are lost: normally those of one run of the model.

        Raises:
            EngineDead: The engine broke down.
            EngineFailed: The engine could not carry out the request.
            RequestRefused: The engine rejected the request.
        """
        with _named_errors():
            async with aclosing(self._engine.generate(tokens_input([*ids]), sampling, self._next_name())) as outputs:
                async for output in outputs:
                    yield output

    async def complete(
        self, ids: Sequence[int], sampling: SamplingParams, *, aborted: Callable[[RequestOutput], None]
    ) -> RequestOutput:
        """Return all that the model writes after some ids, in one piece.

        Args:
            ids: What the model continues.
            sampling: With the output kind `FINAL_ONLY`.
            aborted: Gets what the engine had delivered, if this coroutine is cancelled; the rest is lost, as for
                `generate`.

        Raises:
            Exception: As `generate`.
        """
        with _named_errors():
            name = self._next_name()
            outputs = self._engine.generate(tokens_input([*ids]), sampling, name)
            # A separate task, because the engine drops the output of a request whose task is cancelled.
            completing = asyncio.create_task(_last(outputs))
            try:
                return await asyncio.shield(completing)
            except asyncio.CancelledError:
                await self._engine.abort(name)
                aborted(await completing)
                raise

    async def pool(self, ids: Sequence[int], pooling: PoolingParams) -> PoolingRequestOutput[Any]:
        """Return the model's output at each of some ids; raises what `generate` raises."""
        with _named_errors():
            async with aclosing(self._engine.encode(tokens_input([*ids]), pooling, self._next_name())) as outputs:
                async for output in outputs:
                    if output.finished:
                        return output
        raise EngineFailed

    def check(self) -> None:
        """Raise `EngineDead` if the engine broke down."""
        if self._engine.errored:
            raise EngineDead

    def close(self) -> None:
        """End the engine's processes; running calls raise `EngineStopped`."""
        self._loop.close(self._end)

    async def _end(self) -> None:
        if (engine := getattr(self, "_engine", None)) is not None:
            engine.shutdown()

    def _copy_tokenizer(self) -> Tokenizer:
        """Copy the engine's tokenizer, because the options below must not change the engine's."""
        backend = getattr(self._engine.get_tokenizer(), "backend_tokenizer", None)
        if backend is None:
            raise ModelUnusable(f"The model {self.name} has no tokenizer.json; set {self.setting} to one that has.")
        tokenizer = Tokenizer.from_str(backend.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    async def _warm_up(self, runner: Runner) -> None:
        """Send a request, so that no call's time-out includes what vLLM compiles and allocates at the first one.

        A language model is also asked for a log-probability: the first one has vLLM compile a function.
        """
        ids = self.encode("1", is_beginning=True)
        try:
            match runner:
                case "pooling":
                    await self.pool(ids, PoolingParams(task="token_classify"))
                case "generate":
                    async for _ in self.generate(ids, SamplingParams(max_tokens=1, logprobs=0)):
                        pass
                case _:
                    assert_never(runner)
        except (EngineFailed, RequestRefused) as error:
            raise ModelUnusable(
                f"The model {self.name} did not answer a first request; check that {self.setting} is"
                f" {'a process reward model' if runner == 'pooling' else 'a language model'}, and"
                f" {_other_settings(runner)}."
            ) from error.__cause__

    def _next_name(self) -> str:
        return str(next(self._names))


class OnModel:
    """An engine that consists of one model."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return self._model.model_id

    def check(self) -> None:
        """Raise `EngineDead` if the engine broke down."""
        self._model.check()

    def close(self) -> None:
        """End the engine; running calls raise `EngineStopped`."""
        self._model.close()


async def _last(outputs: AsyncGenerator[RequestOutput, None]) -> RequestOutput:
    last = None
    async with aclosing(outputs):
        async for output in outputs:
            last = output
    if last is None:
        raise EngineFailed
    return last


async def _start(name: str, setting: str, runner: Runner, arguments: Mapping[str, Any]) -> AsyncLLM:
    chosen: dict[str, Any] = {
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "logprobs_mode": "raw_logprobs",  # As the port defines log-probabilities: before temperature, top-p and top-k.
        **arguments,
    }
    if runner == "pooling":
        # Rows of all tokens, and not only of the tags: the cache decides which tokens have rows, so we count them.
        chosen["pooler_config"] = PoolerConfig(task="token_classify", tok_pooling_type="ALL")
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(model=name, runner=runner, **chosen))
    except Exception as error:  # vLLM passes on any error that a library raises over a file or an argument.
        raise ModelUnusable(
            f"vLLM cannot serve the model {name}; check {setting}, {_other_settings(runner)} and the log of vLLM."
        ) from error


def _other_settings(runner: Runner) -> str:
    """Name the other settings that decide whether vLLM can serve a model."""
    return "TRIM_PRM_FORMAT and TRIM_VLLM_ARGS" if runner == "pooling" else "TRIM_VLLM_ARGS"


@contextmanager
def _named_errors() -> Iterator[None]:
    """Turn vLLM's errors into ours."""
    try:
        yield
    except EngineDeadError:
        raise EngineDead from None
    except VLLMClientError as error:
        raise RequestRefused from error
    except VLLMError as error:
        raise EngineFailed from error.__cause__ or error  # The message of vLLM's own error has no details.

"""The base of generator and scorer on ONNX Runtime: a model, a batch, and the thread that owns both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from shared.domain.text import SEPARATOR
from shared.engines.embedded.batch import Batch, Row
from shared.engines.embedded.batch_loop import Call, Loop
from shared.engines.embedded.runtime import Model
from shared.engines.solution_ids import Prompt, SolutionEncoder

Answer = TypeVar("Answer")
SomeMember = TypeVar("SomeMember", bound="Member[Any]")


@dataclass(kw_only=True, eq=False)
class Member(Row, Call[Answer]):
    """A call that is also a row of the batch."""


class EmbeddedEngine(ABC, Generic[SomeMember]):
    """Runs a model of the Qwen2 family from a folder that `recipe.export` has prepared.

    All state belongs to the loop's thread; callers encode their input and wait.
    """

    architecture: ClassVar[str]
    """Architecture that the folder's `config.json` must name."""

    def __init__(
        self,
        folder: Path,
        *,
        setting: str = "the folder",
        threads: int = 1,
        max_batch: int = 64,
        cache_tokens: int = 32_768,
        on_run: Callable[[float], object] = lambda _: None,
    ) -> None:
        """Load the model and start the thread.

        Args:
            folder: The model folder.
            setting: Name of the setting that chose the folder, for error messages.
            threads: Number of cores that one run of the graph may use.
            max_batch: Maximum number of sequences computed together; further calls wait.
            cache_tokens: Number of tokens whose keys and values are kept for later calls.
            on_run: Called with the used share of the batch whenever the model runs.

        Raises:
            ModelUnusable: The folder's files are missing or damaged, or belong to another kind of model.
        """
        self._model = Model(folder, setting=setting, architecture=self.architecture, threads=threads)
        self._encoder = SolutionEncoder(self._model.encode, self._model.decode)
        self._prepare(folder, setting)
        self._max_batch = max_batch
        self._on_run = on_run
        self._batch: Batch[SomeMember] = Batch(self._model, cache_tokens=cache_tokens)
        self._waiting: list[SomeMember] = []
        self._loop: Loop[SomeMember] = Loop(self._turn, name=self.model_id)

    @property
    def model_id(self) -> str:
        """Name of the model, with the first digits of the digest of its weights."""
        return self._model.model_id

    def question_ids(self, question: str) -> list[int]:
        """Encode a question; every solution of it begins with these ids."""
        return self.prompt(question).ids

    def prompt(self, question: str) -> Prompt:
        """Encode a question with the text around it."""
        return self._encoder.prompt(f"Problem: {question}{SEPARATOR}")

    @abstractmethod
    def step_ids(self, text: str) -> list[int]:
        """Encode a step as the model reads it after the question and the steps before it."""

    def check(self) -> None:
        """Raise `EngineDead` if the thread broke down."""
        self._loop.check()

    def close(self) -> None:
        """Stop the thread; running calls raise `EngineStopped`."""
        self._loop.close()

    def _prepare(self, folder: Path, setting: str) -> None:
        """Read from the model what the engine needs; called before the thread starts.

        Raises:
            ModelUnusable: The model lacks something that the engine needs.
        """

    @abstractmethod
    def _turn(self, arrived: list[SomeMember]) -> bool:
        """Add the calls that have arrived and run the model once; return whether there is more to do."""

"""What writing and scoring on ONNX Runtime have in common: one model, one batch, and the thread that they belong to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from shared.engines.embedded.batch import Batch, Row
from shared.engines.embedded.loop import Call, Loop
from shared.engines.embedded.runtime import Model

Answer = TypeVar("Answer")
SomeMember = TypeVar("SomeMember", bound="Member[Any]")


@dataclass(kw_only=True, eq=False)
class Member(Row, Call[Answer]):
    """A call that is a row of the batch."""


class EmbeddedEngine(ABC, Generic[SomeMember]):
    """A model of the Qwen2 family from a folder that `recipe.export` has prepared.

    All state belongs to the loop's thread; callers only encode their input and wait.
    """

    architecture: ClassVar[str]
    """What kind of model it needs, as in the folder's `config.json`."""

    def __init__(
        self,
        folder: Path,
        *,
        setting: str = "the folder",
        threads: int = 1,
        max_batch: int = 64,
        cache_tokens: int = 32_768,
    ) -> None:
        """Load the model and start the thread.

        Args:
            folder: The model folder.
            setting: Which setting names it, for messages.
            threads: Cores that one computation may use.
            max_batch: Sequences that are computed together at most; further calls wait for their turn.
            cache_tokens: Tokens whose keys and values are kept for later calls.

        Raises:
            ModelUnusable: The folder's files are missing or damaged, or hold no such model.
        """
        self._model = Model(folder, setting=setting, architecture=self.architecture, threads=threads)
        self._prepare(folder, setting)
        self._max_batch = max_batch
        self._batch: Batch[SomeMember] = Batch(self._model, cache_tokens=cache_tokens)
        self._waiting: list[SomeMember] = []
        self._loop: Loop[SomeMember] = Loop(self._turn, name=self.model_id)

    @property
    def model_id(self) -> str:
        """Name of the model with the first digits of its weights' digest."""
        return self._model.model_id

    def check(self) -> None:
        """Raise `EngineDead` if the thread has broken down."""
        self._loop.check()

    def close(self) -> None:
        """Stop the thread; calls that still run raise `EngineStopped`."""
        self._loop.close()

    def _prepare(self, folder: Path, setting: str) -> None:
        """Look up, before the thread starts, what the engine needs to know of its model.

        Raises:
            ModelUnusable: The model lacks it.
        """

    @abstractmethod
    def _turn(self, arrived: list[SomeMember]) -> bool:
        """Take calls that have arrived and work for a moment on all there are; tell whether there is more to do."""

"""The folder of a run: its manifest, the results of each batch, and the results of the whole run.

Every file is written whole or not at all, so a run that is killed at any moment continues where it was.
"""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evaluation.runs.plan import BATCH_PROBLEMS, Plan, PlannedBatch
from evaluation.runs.rows import TrialRow
from shared.errors import PermanentError, RetryableError
from stack.whole_files import draft_of, write_whole

MANIFEST: Final = "manifest.json"
RESULTS: Final = "results.jsonl"
LOCK: Final = "lock"

Key = tuple[str, str, int]
"""What identifies a row of a run: policy, id of the problem, seed."""


class OtherRun(PermanentError):
    """The folder holds a run with other settings; name another folder."""

    code = "other_run"


class NoRun(PermanentError):
    """The folder holds no results; evaluate into it first."""

    code = "no_run"


class FolderInUse(RetryableError):
    """Another `trim evaluate` works in this folder; wait for it, or name another folder."""

    code = "folder_in_use"


class Manifest(BaseModel):
    """What a run has submitted so far."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    run_id: str = Field(default_factory=lambda: str(uuid.uuid4()))
    """Part of each batch's idempotency key."""
    plan: Plan
    batch_problems: int = Field(default=BATCH_PROBLEMS, ge=1)
    """Largest number of problems in a batch."""
    batches: dict[int, str] = Field(default_factory=dict)
    """Ids of the submitted batches by number."""
    versions: dict[str, int] = Field(default_factory=dict)
    """Versions of the fitted policies that the service chose for the first batch, by label."""

    def key(self, number: int) -> str:
        """Return the idempotency key of a batch."""
        return f"evaluate-{self.run_id}-{number}"


class RunFolder:
    """The files of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out for the duration of the block. A folder that is refused stays as it is.

        Raises:
            FolderInUse: Another process holds the folder.
            OtherRun: The folder cannot be made, or holds other files.
            NoRun: The folder has a manifest that this version cannot read.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_files()
            lock = (self.path / LOCK).open("a")
        except OSError as error:
            raise OtherRun(f"{self.path} cannot hold a run ({error.strerror}); name another folder.") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderInUse from None
            yield

    def _check_files(self) -> None:
        manifest, lock = self.path / MANIFEST, self.path / LOCK
        if manifest.exists():
            self.manifest()
        elif set(self.path.iterdir()) - {lock, draft_of(manifest)}:
            raise OtherRun(f"{self.path} holds other files; name a new folder.")
        if lock.exists() and lock.stat().st_size:
            raise OtherRun(f"{lock} is no file of `trim evaluate`; name another folder.")

    def begin(self, plan: Plan) -> Manifest:
        """Return the manifest of a run that was interrupted, or of a new one; the caller holds the lock.

        A run that has submitted nothing may get another plan.

        Raises:
            OtherRun: The folder holds a run with another plan.
        """
        if (self.path / MANIFEST).exists():
            manifest = self.manifest()
            differing = manifest.plan.differences(plan)
            if differing and manifest.batches:
                raise OtherRun(
                    f"{self.path} holds a run with other settings ({', '.join(differing)}); name another folder, or"
                    " repeat its settings to continue it."
                )
            if not differing:
                return manifest
        manifest = Manifest(plan=plan)
        self.save(manifest)
        return manifest

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            NoRun: There is none that this version can read.
        """
        try:
            return Manifest.model_validate_json((self.path / MANIFEST).read_bytes())
        except (OSError, ValidationError) as error:
            raise NoRun(
                f"{self.path} holds no run of `trim evaluate` that can be read; name another folder."
            ) from error

    def save(self, manifest: Manifest) -> None:
        """Write the manifest."""
        write_whole(self.path / MANIFEST, manifest.model_dump_json(indent=1).encode())

    def has_batch(self, batch: PlannedBatch) -> bool:
        """Return whether the results of a batch are here."""
        return self._path_of(batch).exists()

    def save_batch(self, batch: PlannedBatch, rows: Sequence[TrialRow]) -> None:
        """Write the results of a batch."""
        write_whole(self._path_of(batch), _encode(rows))

    def read_batch(self, batch: PlannedBatch) -> list[TrialRow]:
        """Read the results of a batch.

        Raises:
            NoRun: The file is damaged.
        """
        label = batch.candidate.label
        return _decode(
            self._path_of(batch), lambda _: [(label, trial.problem.id, trial.seed) for trial in batch.trials]
        )

    def save_results(self, rows: Sequence[TrialRow]) -> None:
        """Write the results of the run: by policy, then by problem, then by seed."""
        write_whole(self.path / RESULTS, _encode(rows))

    def results(self, plan: Plan) -> list[TrialRow]:
        """Read the results of the run with this plan.

        Raises:
            NoRun: The run has not ended, or the file is damaged.
        """
        if not (self.path / RESULTS).exists():
            raise NoRun(f"{self.path} holds no results; repeat `trim evaluate` until it ends.")

        def expected(rows: Sequence[TrialRow]) -> list[Key]:
            ids = [row.id for row in rows[: plan.problems * plan.seeds : plan.seeds]]
            return [(label, each, seed) for label in plan.policies for each in ids for seed in range(plan.seeds)]

        return _decode(self.path / RESULTS, expected)

    def _path_of(self, batch: PlannedBatch) -> Path:
        return self.path / "batches" / f"{batch.number:05}.jsonl"


def _encode(rows: Sequence[TrialRow]) -> bytes:
    return b"".join(row.model_dump_json().encode() + b"\n" for row in rows)


def _decode(path: Path, expected: Callable[[Sequence[TrialRow]], Sequence[Key]]) -> list[TrialRow]:
    """Read rows, which must have the expected keys.

    Raises:
        NoRun: The file is damaged.
    """
    try:
        rows = [TrialRow.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValidationError):
        rows = []
    if not rows or [(row.policy, row.id, row.seed) for row in rows] != expected(rows):
        raise NoRun(f"{path} is damaged; remove it and repeat `trim evaluate`.")
    return rows

"""Measures parts of an evaluation in several processes at once; each has a share of the problems and its own engines.

An engine needs one core, and the threads of a process share one more, so that more processes use more cores.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise, product
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask
from threading import Thread
from typing import Final

from evaluation.offline import GREEDY, Models
from evaluation.study import Study
from evaluation.true_cost import Computed
from recipe.measuring import Scored, score_small
from recipe.problems.drawing import Split, draw
from recipe.reference import load_weights
from recipe.settings import curve
from recipe.studies import Trials, study
from recipe.tables import Results
from shared import log
from shared.domain.options import Sampling
from shared.errors import TrimError
from shared.policies.artefact import Artefact
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES
from shared.settings import Settings
from stack.interrupts import STOPPING, delaying_interrupts
from stack.policies import read_artefacts

SPLITS: Final = (Split.TEST, Split.TRANSFER)
"""Splits of the problems that are measured."""


class ShardDied(TrimError):
    """A process that measures ended early; its errors are above, else it ran out of memory: lower --processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What to measure."""

    models: Path
    """Folder of the models."""
    prms: Sequence[str]
    """Folders of the PRMs in it."""
    policies: Sequence[str]
    """Policies with curves. Those without an artefact for a PRM are left out with it."""
    problems: int
    """Number of problems of each split."""
    seeds: int
    """Number of times that each test problem is solved by a setting; transfer problems are solved once."""

    @property
    def parts(self) -> list[tuple[str, Split]]:
        """PRMs and splits, in the order in which they are measured."""
        return list(product(self.prms, SPLITS))

    def samplings(self, split: Split) -> list[Sampling]:
        """Return how tokens are drawn, once for each time that a problem is solved."""
        return [Sampling(seed=seed) for seed in range(self.seeds if split is Split.TEST else 1)]


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive problems of each split."""

    first: int
    end: int

    @classmethod
    def of(cls, work: Work, processes: int) -> list[Shard]:
        """Share the problems among processes, as equally as possible."""
        shares = min(processes, work.problems)
        ends = [work.problems * number // shares for number in range(shares + 1)]
        return [cls(first, end) for first, end in pairwise(ends)]


Piece = tuple[Study, Mapping[str, Scored]]
"""A study of a shard's problems, and the scores of the small model's steps by how these were drawn."""


def measure(work: Work, processes: int) -> Generator[tuple[str, Split, Results], None, None]:
    """Measure all parts; yield each once all processes have it. Close the iterator to end the processes early.

    Raises:
        ShardDied: A process ended early.
        TrimError: A process could not measure; see `Models`.
    """
    context = get_context("spawn")
    with ExitStack() as stack:
        pipes = [stack.enter_context(_measuring(context, work, shard)) for shard in Shard.of(work, processes)]
        for prm, split in work.parts:
            pieces = [_receive(pipe) for pipe in pipes]
            scored = {drawn: Scored.joined([each[drawn] for _, each in pieces]) for drawn in pieces[0][1]}
            yield prm, split, Results(Study.joined([solved for solved, _ in pieces]), scored)


@contextmanager
def _measuring(context: SpawnContext, work: Work, shard: Shard) -> Iterator[Connection]:
    """Start a process that measures a shard, and end it after the block; yield the pipe that its pieces come from."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(work, shard, theirs))
    with ours:
        try:
            # An interruption in the middle of the start would leave a process that waits for its work.
            with delaying_interrupts():
                # The process inherits the mask: a terminal interrupts all processes, and this one ends the others.
                mask = pthread_sigmask(SIG_BLOCK, STOPPING)
                process.start()
                pthread_sigmask(SIG_SETMASK, mask)
            # Once the process has ended, no other writer keeps the pipe open.
            theirs.close()
            yield ours
        finally:
            # Before the pipe is closed, to which the process may be writing.
            if process.pid is not None:
                process.kill()
                process.join()


def _receive(pipe: Connection) -> Piece:
    try:
        received: Piece | TrimError = pipe.recv()
    except EOFError:
        raise ShardDied from None
    if isinstance(received, TrimError):
        raise received
    return received


def _measure(work: Work, shard: Shard, pipe: Connection) -> None:
    """Measure all parts for a shard, and send their pieces in order, or the error that prevents it."""
    Thread(target=_end_with_parent, daemon=True).start()
    gc.disable()  # Branches are millions of objects that stay; collections would traverse them again and again.
    # The simulated orchestrator logs the end of each problem.
    log.configure(Settings(log_level="warning"), role="evaluate")
    try:
        for piece in _pieces(work, shard):
            pipe.send(piece)
    except TrimError as error:
        pipe.send(error)


def _end_with_parent() -> None:
    """End this process when its parent was killed, which could not end it."""
    parent = parent_process()
    assert parent is not None, "this process was started by another"
    parent.join()
    os._exit(1)


def _pieces(work: Work, shard: Shard) -> Iterator[Piece]:
    stories = {split: list(islice(draw(split), shard.first, shard.end)) for split in SPLITS}
    with ExitStack() as stack:
        loaded = stack.enter_context(Models(work.models / "small", work.models / "large"))
        with_prm = {prm: stack.enter_context(loaded.with_prm(work.models / prm)) for prm in work.prms}
        for prm, split in work.parts:
            trials = Trials(stories[split], work.samplings(split), with_prm[prm])
            yield _piece(trials, work, title=f"{split} problems, PRM {prm}", prm=prm, first=shard.first)


def _piece(trials: Trials, work: Work, *, title: str, prm: str, first: int) -> Piece:
    """Solve problems with all policies for which there is an artefact, or which need none."""
    artefacts = artefacts_for(trials.models)
    policies = [name for name in work.policies if name in artefacts or not issubclass(POLICIES[name], FittedPolicy)]
    drawn = {"greedy": [GREEDY], "sampled": trials.samplings}
    scored = {
        name: Scored.joined([score_small(trials.models, trials.stories, each, first=first) for each in samplings])
        for name, samplings in drawn.items()
    }
    solved = study(
        trials,
        (setting for name in policies for setting in curve(name, artefacts)),
        title=title,
        prices=parameters(work.models, prm),
        judged=scored["sampled"].judged,
    )
    return solved, scored


def artefacts_for(models: Models) -> dict[str, Artefact]:
    """Return the bundled artefacts that were made for these models, by policy."""
    found = (each for each in read_artefacts() if each.models == models.ids)
    return {artefact.card.policy: artefact for artefact in found}


def parameters(models: Path, prm: str) -> Computed:
    """Count the parameters of the small model, the large model and a PRM: what each computes for one token."""

    def count(folder: str) -> int:
        return sum(weight.size for weight in load_weights(models / folder / "model.safetensors").values())

    return Computed(small=count("small"), prm=count(prm), large=count("large"))

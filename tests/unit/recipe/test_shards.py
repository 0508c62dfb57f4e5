"""Several processes measure what one would, and end with the first one's iterator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from multiprocessing import active_children
from multiprocessing.connection import Connection
from pathlib import Path
from time import sleep

import pytest

from evaluation.study import Judged, Setting, Trial
from recipe import shards
from recipe.problems.drawing import Split
from recipe.shards import Shard, ShardDied, Work, measure
from shared.engines.port import ModelUnusable
from shared.settings import MODELS

WORK = Work(models=MODELS, prms=("prm-lite",), policies=("threshold", "cascade"), problems=2, seeds=1)


def without_chance(settings: Sequence[Setting]) -> list[Setting]:
    """Leave out what differs between two runs: batches of different sizes round scores differently.

    The PRM reads the drafts of a cascade in several threads. If one reads a draft before the draft ahead of it, it
    computes a token more.
    """

    def reproducible(trial: Trial, policy: str) -> Trial:
        ledger = replace(trial.ledger, prm_tokens=0) if policy == "cascade" else trial.ledger
        return replace(trial, ledger=ledger, decisions=[replace(each, score=None) for each in trial.decisions])

    return [replace(each, trials=[reproducible(trial, each.policy) for trial in each.trials]) for each in settings]


def whereabouts(judged: Sequence[Judged]) -> list[tuple[int, bool]]:
    return sorted((each.problem or 0, each.is_right) for each in judged)


def test_two_processes_measure_what_one_measures() -> None:
    alone, shared = ([*measure(WORK, processes)] for processes in (1, 2))
    assert [(prm, split) for prm, split, _ in shared] == [("prm-lite", Split.TEST), ("prm-lite", Split.TRANSFER)]
    for (*_, one), (*_, two) in zip(alone, shared, strict=True):
        ours, theirs = one.study, two.study
        assert (ours.problems, ours.seeds, ours.title) == (theirs.problems, theirs.seeds, theirs.title)
        assert without_chance([ours.small, ours.large, *ours.settings]) == without_chance(
            [theirs.small, theirs.large, *theirs.settings]
        )
        assert whereabouts(ours.judged) == whereabouts(theirs.judged)
        assert {each.problem for each in theirs.judged} == {0, 1}
    assert active_children() == []


def test_problems_are_shared_equally_and_each_once() -> None:
    assert Shard.of(replace(WORK, problems=5), 2) == [Shard(0, 2), Shard(2, 5)]
    assert Shard.of(replace(WORK, problems=2), 8) == [Shard(0, 1), Shard(1, 2)]


def test_the_processes_end_with_the_iterator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_measure", stays)
    with closing(measure(WORK, 2)) as parts:
        with pytest.raises(ShardDied):
            next(parts)
        assert active_children() == []


def stays(_work: Work, shard: Shard, pipe: Connection) -> None:
    """End early in the second process; in the first one, close the pipe and stay."""
    pipe.close()
    if shard.first == 0:
        sleep(600)


def test_an_error_of_a_process_is_raised_here() -> None:
    with pytest.raises(ModelUnusable, match="nowhere"):
        next(measure(replace(WORK, models=Path("nowhere")), 2))
    assert active_children() == []


WAITING = """
from dataclasses import replace
from recipe import shards
from tests.unit.recipe.test_shards import WORK

def waits(pipe):
    print("waiting", flush=True)
    pipe.poll(600)

shards._receive = waits
next(shards.measure(replace(WORK, problems=1000), 2))
"""


def test_the_processes_end_with_a_first_process_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "waiting\n"
        first.kill()
        # The pipe ends when its last writer does.
        assert first.communicate(timeout=120)[0] == ""


INTERRUPTED = """
import os, signal, threading, time
from multiprocessing import util
from recipe import shards
from stack.interrupts import interrupt_once
from tests.unit.recipe.test_shards import WORK

spawn = util.spawnv_passfds

def interrupt_after(path, arguments, descriptors):
    child = spawn(path, arguments, descriptors)
    if "spawn_main" not in " ".join(map(os.fsdecode, arguments)):
        return child
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)  # The handler runs in the main thread, which may be this one.
    return child

util.spawnv_passfds = interrupt_after
signal.signal(signal.SIGTERM, interrupt_once)
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()  # It takes signals that others block.
try:
    next(shards.measure(WORK, 1))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interruption_in_the_middle_of_a_start_leaves_no_process_that_lacks_its_work() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")

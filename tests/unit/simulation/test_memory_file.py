"""A memory on disk: read as written, shared by processes, separate for each model, refused if it is something else."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.options import Sampling
from shared.engines.port import EngineDead, GeneratedStep, Meter
from simulation.memory_file import MemoryFile, UnusableMemory
from simulation.remembering import RememberingGenerator, RememberingScorer
from simulation.world import WorldScorer
from tests.unit.simulation.test_remembering import REQUEST, SCORING, WORLD, Counting, CountingScorer, texts

KEY = ("What?", ("a", "b"), Sampling(seed=3), 50)
STEP = GeneratedStep(
    text="Zwölf 12\ud800", finish=Finish.LENGTH, tokens=5, prompt_tokens=7, cached_tokens=0, mean_logprob=-0.1,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "memory.sqlite3"


@pytest.fixture
def memory(path: Path) -> Iterator[MemoryFile]:
    with closing(MemoryFile(path)) as made:
        yield made


def test_another_process_reads_what_one_wrote(memory: MemoryFile, path: Path) -> None:
    memory.steps("m")[KEY] = STEP
    memory.scores("m")["What?", ("a",)] = math.inf
    with closing(MemoryFile(path)) as other:
        assert other.steps("m").get(KEY) == STEP
        assert other.scores("m").get(("What?", ("a",))) == math.inf


@pytest.mark.parametrize(
    "other",
    [
        ("Why?", *KEY[1:]),
        (KEY[0], ("a", "c"), *KEY[2:]),
        (KEY[0], ("a, b",), *KEY[2:]),
        (*KEY[:2], replace(KEY[2], seed=4), 50),
        (*KEY[:3], 51),
    ],
)
def test_another_request_is_not_known(memory: MemoryFile, other: tuple[str, tuple[str, ...], Sampling, int]) -> None:
    memory.steps("m")[KEY] = STEP
    assert memory.steps("m").get(other) is None


def test_models_do_not_share_what_they_wrote(memory: MemoryFile) -> None:
    memory.steps("m")[KEY] = STEP
    assert memory.steps("n").get(KEY) is None


def test_a_second_run_has_the_engines_compute_nothing(path: Path) -> None:
    expected = [texts(Counting(), REQUEST), WorldScorer(WORLD).score(SCORING, Cancellation(), Meter()).values]
    for is_first in (True, False):
        writer, judge = Counting(), CountingScorer(WORLD)
        judge.requests = []
        with closing(MemoryFile(path)) as memory:
            generator = RememberingGenerator(writer, memory.steps(writer.model_id))
            scorer = RememberingScorer(judge, memory.scores(judge.model_id))
            assert [texts(generator, REQUEST), scorer.score(SCORING, Cancellation(), Meter()).values] == expected
        assert (len(writer.requests), len(judge.requests)) == (is_first, is_first)


def test_threads_share_a_file(memory: MemoryFile) -> None:
    def write(number: int) -> None:
        memory.scores("m")["What?", (str(number),)] = number / 100

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(100)))
    assert [memory.scores("m").get(("What?", (str(each),))) for each in range(100)] == [
        each / 100 for each in range(100)
    ]


def test_a_file_of_something_else_is_refused_in_one_sentence_and_stays_as_it_is(tmp_path: Path) -> None:
    notes, other = tmp_path / "notes.txt", tmp_path / "other.sqlite3"
    notes.write_text("Buy milk. " * 100)
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE milk (litres)")
    for file in (notes, other, tmp_path):
        with pytest.raises(UnusableMemory, match="delete it, or name another file"):
            MemoryFile(file)
    assert notes.read_text().startswith("Buy milk.")


def test_a_file_that_breaks_ends_the_run_and_counts_as_no_failure_of_the_model(memory: MemoryFile) -> None:
    memory.close()
    with pytest.raises(EngineDead, match="memory"):
        memory.steps("m").get(KEY)
    with pytest.raises(EngineDead, match="memory"):
        memory.scores("m")["What?", ("a",)] = 0.5

"""Reads what a scenario leaves behind, and remembers each result that a client could have seen meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Any, Self

import psycopg

from chaos.deployment import Deployment
from chaos.load import Load
from chaos.measuring import OPEN, Record

EVERY_S = 0.5
"""Seconds between two looks at the results."""

STILL_S = 10.0
"""Seconds in which an open problem has to change, or does not go on."""

_ENDED = "SELECT question, status, answer, verdict FROM problems WHERE finished_at IS NOT NULL"
_PROGRESS = (
    "SELECT id, epoch, request_count, attempts, step_count, decision_count, absences::text AS absences, status"
    " FROM problems WHERE finished_at IS NULL"
)
_PROBLEMS = (
    "SELECT id, question, status, failure_code, small_kept, small_discarded, small_wasted, large_out, large_wasted"
    " FROM problems"
)


class Witness:
    """Looks at the results of a deployment from a thread, for as long as a block runs."""

    def __init__(self, deployment: Deployment) -> None:
        """Prepare to look."""
        self._deployment = deployment
        self._results: dict[str, set[Hashable]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._stopping.set()
        self._thread.join()

    def read(self, load: Load) -> Record:
        """Read the record; if problems are open, wait for a while and note which of them change."""
        moved = self._find_moved()
        self._look()
        rows = self._deployment.rows
        return Record(
            questions=load.questions,
            problems=rows(_PROBLEMS),
            steps=rows("SELECT problem_id, step, accepted_at FROM steps"),
            decisions=rows("SELECT problem_id, number, draft_id FROM decisions"),
            results=dict(self._results),
            moved=moved,
        )

    def _find_moved(self) -> set[Hashable]:
        if not (before := self._progress()):
            return set()
        time.sleep(STILL_S)
        after = self._progress()
        return {each for each, seen in before.items() if after.get(each) != seen}

    def _progress(self) -> dict[Hashable, dict[str, Any]]:
        return {row["id"]: row for row in self._deployment.rows(_PROGRESS)}

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            try:
                self._look()
            except psycopg.OperationalError:
                continue  # A scenario may take the server away.

    def _look(self) -> None:
        for row in self._deployment.rows(_ENDED):
            assert row["status"] not in OPEN
            self._results.setdefault(row["question"], set()).add((row["status"], row["answer"], row["verdict"]))

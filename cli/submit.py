"""`trim submit`: a file of problems, as batches."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli.batches import print_sums, wait_for
from cli.choices import DeadlineS, Lookahead, PolicyText, SamplingSeed, Temperature, Threshold, chosen
from cli.output import print_json
from cli.problem_lines import BadLines, Chunk, Keys, ProblemLine, chunks, read_lines
from cli.progress import note, showing_progress
from cli.service import Service
from evaluation.problems import BadLine, UnusableProblems
from trim_client import Client, InvalidRequest, Options, SubmittedBatch

BATCH_PROBLEMS: Final = 1000
"""Largest number of problems of a batch: the default of the API (`TRIM_MAX_BATCH_SIZE`). A service that accepts less
gets smaller ones."""

NAMED: Final = 10
"""Number of batches that notes name."""

TOO_LARGE: Final = frozenset({"batch_too_large", "body_too_large"})
"""Codes of refusals that a smaller batch avoids."""

_PLACE: Final = re.compile(r"body\.problems\.(\d+)\.?(.*)")


def submit(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Problems, one JSON object a line; `-` is standard input.")
    ],
    *,
    server: Service,
    policy: PolicyText = None,
    threshold: Threshold = None,
    lookahead: Lookahead = None,
    temperature: Temperature = None,
    seed: SamplingSeed = None,
    deadline_s: DeadlineS = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all problems have ended.")] = False,
    run: Annotated[
        str, typer.Option("--run", metavar="NAME", help="Name of the run. Under another one, the file is solved again.")
    ] = "",
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="FIELD", help="Field of the lines to leave out; repeat it.")
    ] = None,
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Submit the other lines if some hold no problem.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: batches, with their problems and lines.")
    ] = False,
) -> None:
    """Submit a file of problems, in batches; print their ids.

    The options apply to problems that omit them. The same command submits nothing twice: it finds the batches of the
    first time by their content. So it may be repeated after a lost connection, also with --wait.
    """
    defaults = chosen(
        policy=policy,
        threshold=threshold,
        lookahead=lookahead,
        temperature=temperature,
        seed=seed,
        deadline_s=deadline_s,
    )
    lines, bad = read_lines(_lines(file), ignored=ignore or ())
    _report(file, bad, skip=skip_bad_lines)
    if not lines:
        raise UnusableProblems(f"{file} has no problem; write one JSON object a line, with `question`.")
    with server as client:
        submitting = Submitting(client, file, defaults, run=run, skip=skip_bad_lines)
        submitted: list[tuple[Chunk, SubmittedBatch]] = []
        try:
            submitted.extend(submitting.submit(lines))
        finally:  # Also what was submitted before a failure.
            _name([batch for _, batch in submitted], on_stdout=not as_json and not wait)
        batches = [batch for _, batch in submitted]
        shown = [_fields(client, chunk, batch) for chunk, batch in submitted] if as_json else []
        ended = wait_for(client, batches) if wait else None
    if as_json:
        print_json(shown)
    if ended is not None:
        if not as_json:
            print_sums(ended)
        if any(each.statuses.get("succeeded", 0) < each.size for each in ended):
            raise typer.Exit(1)


class Submitting:
    """Submits the lines of a file."""

    def __init__(self, client: Client, file: str, defaults: Options, *, run: str, skip: bool) -> None:
        """Take what all batches have in common."""
        self._client, self._file, self._defaults, self._skip = client, file, defaults, skip
        self._keys = Keys(run=run, defaults=defaults)

    def submit(self, lines: Sequence[ProblemLine]) -> Iterator[tuple[Chunk, SubmittedBatch]]:
        """Submit lines, and yield each batch with its lines.

        Raises:
            BadLines: The service refuses lines, and they are not to be skipped.
            TrimClientError: The service refuses a batch, or does not answer.
        """
        waiting = deque(chunks(lines, size=BATCH_PROBLEMS))
        known = count = 0
        with showing_progress() as show:
            move = show("submitting")
            while waiting:
                chunk = waiting.popleft()
                try:
                    batch = self._client.batches.submit(
                        chunk.problems, idempotency_key=self._keys.key(chunk), **self._defaults
                    )
                except InvalidRequest as refusal:
                    waiting.extendleft(reversed(self._smaller(chunk, refusal)))
                    continue
                known += batch.was_submitted_before
                count += len(chunk.lines)
                move(count, len(lines))
                yield chunk, batch
        if known:
            again = "--run NAME submits the file once more"
            note(f"{known} of the batches were submitted before, with the same lines and options; {again}.")

    def _smaller(self, chunk: Chunk, refusal: InvalidRequest) -> Sequence[Chunk]:
        """Return what to submit in place of a batch that was refused.

        Raises:
            InvalidRequest: No line is the reason.
            BadLines: Some lines are, and they are not to be skipped.
        """
        if refusal.code in TOO_LARGE and len(chunk.lines) > 1:
            return list(chunk.halves())
        bad = list(_bad_lines(chunk, refusal))
        if not bad:
            raise refusal
        _report(self._file, bad, skip=self._skip)
        rest = chunk.without({each.line for each in bad})
        return [rest] if rest.lines else []


def _bad_lines(chunk: Chunk, refusal: InvalidRequest) -> Iterator[BadLine]:
    """Find the lines that a refusal names by their places in the batch."""
    for wrong in refusal.errors:
        if (found := _PLACE.fullmatch(wrong.field)) is not None and int(found[1]) < len(chunk.lines):
            place = f"{found[2]}: " if found[2] else ""
            yield BadLine(chunk.lines[int(found[1])].line, f"{place}{wrong.message}")


def _name(batches: Sequence[SubmittedBatch], *, on_stdout: bool) -> None:
    """Print the ids of batches: as data, or as a note."""
    if on_stdout:
        for each in batches:
            print(each.id)
        return
    for each in batches[:NAMED]:
        note(f"Batch {each.id}, {each.size} problems")
    if (more := len(batches) - NAMED) > 0:
        note(f"{more} more batches; `trim batches list` lists them.")


def _report(file: str, bad: Sequence[BadLine], *, skip: bool) -> None:
    """Name bad lines.

    Raises:
        BadLines: They are not to be skipped.
    """
    if bad and not skip:
        raise BadLines(file, bad)
    for each in bad:
        note(f"{file}, line {each.line} is left out: {each.reason}")


def _lines(file: str) -> Iterator[bytes]:
    if file == "-":
        yield from sys.stdin.buffer
        return
    try:
        with Path(file).open("rb") as opened:
            yield from opened
    except OSError as error:
        raise UnusableProblems(f"{file} cannot be read ({error.strerror}); name a file of problems.") from None


def _fields(client: Client, chunk: Chunk, batch: SubmittedBatch) -> Mapping[str, Any]:
    ids = batch.problem_ids
    if ids is None:  # There are too many to list in one answer.
        ids = [each.id for each in client.batches.problems(batch.id)]
    return {
        "batch_id": str(batch.id),
        "was_submitted_before": batch.was_submitted_before,
        "problems": [
            {"line": line.line, "id": str(problem_id)} for line, problem_id in zip(chunk.lines, ids, strict=True)
        ],
    }

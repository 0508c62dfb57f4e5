"""`trim prm`: how well the scores of a PRM are calibrated, and whether they drift."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.errors import EXIT_SHIFTED
from cli.output import print_json, print_table
from cli.progress import console, note
from cli.service import AsJson, Server
from evaluation.score_calibration import (
    Bin,
    Corrections,
    Labelled,
    Quality,
    TooFewLabels,
    compare_corrections,
    reliability,
)
from evaluation.score_drift import SHIFTED, WATCH, Comparison, Drift, ReferenceScores, compare
from evaluation.stored_scores import LABEL, Collected, collect
from stack.client import Api

app = typer.Typer(help="Scores of a PRM: their calibration and their drift.", no_args_is_help=True)

BatchId = Annotated[UUID, typer.Argument(metavar="BATCH", help="Id of the batch.")]
Prm = Annotated[
    str | None, typer.Option(help="Model id of the PRM; needed if the problems have scores of more than one.")
]


@app.command()
def calibration(
    batch: BatchId,
    *,
    server: Server,
    prm: Prm = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the scores as a reference for `trim prm drift`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the PRM scores of a batch with how its solutions ended, and fit corrections."""
    with server as api:
        collected = _collected(api, api.batch_problems(str(batch)), prm)
    labelled = collected.labelled()
    measured, corrections = Quality.of(labelled), _corrections(labelled)
    if save is not None:
        _reference(collected, source=f"batch {batch}").write(save)
        note(f"Saved the reference as {save}.")
    if as_json:
        print_json(
            {
                "prm": collected.prm,
                "label": LABEL,
                **_counts(collected),
                "scores": len(labelled.scores),
                "quality": asdict(measured),
                "bins": [asdict(each) for each in reliability(labelled)],
                "corrections": None if corrections is None else asdict(corrections),
            }
        )
        return
    _print_calibration(collected, labelled, measured, corrections)


@app.command()
def drift(
    batch: Annotated[
        UUID | None, typer.Argument(metavar="BATCH", help="Id of the batch; without it, the newest problems.")
    ] = None,
    *,
    server: Server,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Reference that `trim prm calibration --save` has written."),
    ] = None,
    reference_batch: Annotated[UUID | None, typer.Option(metavar="BATCH", help="Batch to compare with.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Only problems submitted since then (UTC)."),
    ] = None,
    limit: Annotated[int, typer.Option("-n", min=1, help="Maximum number of problems.")] = 1000,
    prm: Annotated[str | None, typer.Option(help="Model id of the PRM; by default that of the reference.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare PRM scores with those of a reference. The exit code is 4 if they have shifted."""
    if (reference is None) == (reference_batch is None):
        raise typer.BadParameter("name either --reference or --reference-batch")
    if batch is not None and since is not None:
        raise typer.BadParameter("name either a batch or --since")
    with server as api:
        if reference is not None:
            wanted = ReferenceScores.read(reference)
        else:
            before = _collected(api, api.batch_problems(str(reference_batch)), prm)
            wanted = _reference(before, source=f"batch {reference_batch}")
        problems = api.batch_problems(str(batch)) if batch else api.items("/v1/problems")
        collected = _collected(api, islice(_since(problems, since), limit), prm or wanted.prm)
    found = compare(wanted, collected.drafts)
    if as_json:
        print_json({"drift": found.drift, **_counts(collected), **asdict(found)})
    else:
        _print_drift(found, wanted, collected)
    if found.drift is Drift.SHIFTED:
        raise typer.Exit(EXIT_SHIFTED)


def _collected(api: Api, problems: Iterable[Mapping[str, Any]], prm: str | None) -> Collected:
    with console.status("Reading scores."):
        return collect(api, problems).of_one_prm(prm)


def _since(problems: Iterator[Mapping[str, Any]], since: datetime | None) -> Iterator[Mapping[str, Any]]:
    """Yield the problems that were submitted since a time; the listing must have the newest first."""
    if since is None:
        return problems
    start = since.replace(tzinfo=UTC)
    return takewhile(lambda problem: datetime.fromisoformat(problem["created_at"]) >= start, problems)


def _reference(collected: Collected, *, source: str) -> ReferenceScores:
    scores = collected.drafts[collected.prm]
    return ReferenceScores.of(scores, prm=collected.prm, created_at=datetime.now(UTC), source=source)


def _corrections(labelled: Labelled) -> Corrections | None:
    try:
        return compare_corrections(labelled)
    except TooFewLabels as error:
        note(f"No corrections were fitted: {error}")
        return None


def _counts(collected: Collected) -> dict[str, Any]:
    return {
        "problems_with_scores": len(collected.scored),
        "problems_without_known_answer": collected.unlabelled,
        "problems_left_out": dict(collected.left_out),
    }


def _print_calibration(
    collected: Collected, labelled: Labelled, measured: Quality, corrections: Corrections | None
) -> None:
    rows = [
        ("PRM", collected.prm),
        ("problems", str(len(collected.scored) - collected.unlabelled)),
        *_left_out(collected),
        ("without a known answer", str(collected.unlabelled)),
        ("scores", str(len(labelled.scores))),
        ("right", f"{labelled.labels.mean():.1%}"),
        ("ECE", _error(measured)),
        ("Brier score", f"{measured.brier:.4f}"),
    ]
    print_table(("measure", "value"), rows)
    print()
    print_table(("score", "steps", "mean score", "right", "95 %"), [_bin_row(each) for each in reliability(labelled)])
    if corrections is not None:
        print()
        temperature = f"temperature {corrections.temperature:.3g}"
        compared = (
            ("none", corrections.uncorrected),
            (temperature, corrections.by_temperature),
            ("isotonic", corrections.by_isotonic),
        )
        print_table(
            ("correction", "ECE, 95 %", "Brier score"),
            [(name, _error(quality), f"{quality.brier:.4f}") for name, quality in compared],
        )
        print(f"Fitted on {corrections.fitted_on} problems, measured on {corrections.measured_on} others.")
    print()
    print(LABEL)


def _print_drift(found: Comparison, reference: ReferenceScores, collected: Collected) -> None:
    rows = [
        ("PRM", found.prm),
        ("reference", f"{reference.source}, {reference.created_at:%Y-%m-%d %H:%M} UTC"),
        ("reference scores", f"{found.reference_scores} of {found.reference_problems} problems"),
        ("scores", f"{found.scores} of {found.problems} problems"),
        *_left_out(collected),
        ("PSI", f"{found.index:.3f}"),
        ("PSI by chance", f"up to {found.bound:.3f} in 95 of 100 cases"),
        ("drift", found.drift),
    ]
    print_table(("measure", "value"), rows)
    print()
    bounds = [f"{edge:.4f}" for edge in found.edges]
    ranges = zip(["", *bounds], [*bounds, ""], found.shares, strict=True)
    print_table(
        ("from", "below", "reference", "now"),
        [(low, high, f"{before:.1%}", f"{now:.1%}") for low, high, (before, now) in ranges],
    )
    print()
    print(f"A PSI that chance explains is stable; otherwise {WATCH} is worth watching, and {SHIFTED} is a shift.")


def _left_out(collected: Collected) -> list[tuple[str, str]]:
    return [(reason, str(count)) for reason, count in collected.left_out.items()]


def _bin_row(each: Bin) -> tuple[str, ...]:
    interval = f"{each.interval.low:.1%} to {each.interval.high:.1%}"
    return (f"{each.low:.1f} to {each.high:.1f}", str(each.count), f"{each.score:.3f}", f"{each.right:.1%}", interval)


def _error(quality: Quality) -> str:
    return f"{quality.error:.4f} ({quality.interval.low:.4f} to {quality.interval.high:.4f})"

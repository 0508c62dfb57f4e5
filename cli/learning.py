"""`trim policies fit` and `trim policies train`: artefacts for your own models, from your own problems."""

# ruff: noqa: PLC0415 - the models and their libraries are imported only where they are needed

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.errors import requiring
from cli.policies import register
from cli.progress import note, showing_progress
from cli.service import Server
from shared.policies.artefact import Artefact
from shared.policies.pomdp.policy import MAX_PRICE
from shared.policies.registry import check_artefact
from stack.artefact_files import write_artefact
from stack.client import Api

if TYPE_CHECKING:
    from training.ppo import Progress

Problems = Annotated[
    Path | None,
    typer.Argument(
        metavar="PROBLEMS.jsonl", help="Problems with answers, one JSON object a line: question and answer."
    ),
]
FromDatabase = Annotated[
    bool,
    typer.Option("--from-database", help="Take the newest problems with references from TRIM_DATABASE_URL instead."),
]
Count = Annotated[int, typer.Option("--problems", min=1, metavar="N", help="Maximum number of problems.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of everything that is drawn.")]
Price = Annotated[
    float,
    typer.Option(
        "--large-token-price", min=0, max=MAX_PRICE, help="Price of a large token; a right answer is worth 1."
    ),
]
Share = Annotated[
    float,
    typer.Option(
        "--validation-share", min=0, max=0.9, help="Share of the problems that measure the result; 0 measures nothing."
    ),
]
ChoosingShare = Annotated[
    float,
    typer.Option("--validation-share", min=0, max=0.9, help="Share of the problems that choose the best weights."),
]
MeasuringShare = Annotated[
    float,
    typer.Option("--measuring-share", min=0, max=0.9, help="Share of the problems that measure the result alone."),
]
Into = Annotated[
    Path,
    typer.Option("--into", metavar="FOLDER", file_okay=False, help="Folder of the result, and of what resumes it."),
]
Import = Annotated[bool, typer.Option("--import", help="Register the result at the service.")]


def check_sources(sources: Mapping[str, object]) -> None:
    """Check that a command has one source of problems; the keys are what it can name.

    Raises:
        BadParameter: It has none, or several.
    """
    if sum(bool(each) for each in sources.values()) != 1:
        raise typer.BadParameter(f"name one of: {', '.join(sources)}.")


def fit(
    policy: Annotated[Literal["pomdp"], typer.Argument(help="Policy to fit.")],
    problems: Problems = None,
    *,
    server: Server,
    into: Into,
    from_database: FromDatabase = False,
    labelled: Annotated[
        Path | None,
        typer.Option("--labelled", metavar="FILE", help="Step-labelled solutions (layout of ProcessBench) instead."),
    ] = None,
    count: Count = 1000,
    validation_share: Share = 0.2,
    large_token_price: Price = 8e-4,
    seed: Seed = 0,
    registers: Import = False,
) -> None:
    """Fit a policy to the models that the settings name.

    The models solve the problems; the large model labels the steps by continuing from them. Run the same command again
    after an interruption: it computes no step twice.
    """
    check_sources({"a file of problems": problems, "--from-database": from_database, "--labelled": labelled})
    with requiring("stack"):
        from cli.local_engines import KEPT, local_engines, read_problems, read_settings
        from training import fitting
        from training.labelled_file import read_labelled

    def make() -> Artefact:
        settings = read_settings()
        if labelled is not None:
            file = read_labelled(labelled, count=count)
            with local_engines(settings, into / "memory.sqlite3") as engines, showing_progress() as show:
                return fitting.fit_to_labelled(file, engines, card=_card(), show=show)
        found = read_problems(settings, problems, count=count, seed=seed, kept=into / KEPT)
        learned_from, held_out = found.split(validation_share)
        with local_engines(settings, into / "memory.sqlite3") as engines, showing_progress() as show:
            return fitting.fit_to_problems(
                learned_from, held_out, engines, seed=seed, large_token_price=large_token_price, card=_card(), show=show
            )

    _finish(make, policy, into, server, registers=registers)


def train(
    policy: Annotated[Literal["aggregate", "sequence"], typer.Argument(help="Policy to train.")],
    problems: Problems = None,
    *,
    server: Server,
    into: Into,
    from_database: FromDatabase = False,
    count: Count = 1000,
    validation_share: ChoosingShare = 0.2,
    measuring_share: MeasuringShare = 0.2,
    batches: Annotated[int, typer.Option("--batches", min=1, help="Number of batches of 64 problems.")] = 600,
    large_token_price: Price = 8e-4,
    seed: Seed = 0,
    registers: Import = False,
) -> None:
    """Train a policy with the models that the settings name.

    The problems have three parts: those that the policy is trained on, those that choose the best weights, and those
    that only measure the result.

    Run the same command again after an interruption: it resumes at the last saved state, and computes no step twice.
    """
    check_sources({"a file of problems": problems, "--from-database": from_database})
    with requiring("train"):
        import torch  # noqa: F401 - checked first: it is the one library that the other extras do not install
    with requiring("stack"):
        from cli.local_engines import KEPT, local_engines, read_problems, read_settings
        from training import learning, ppo

    def make() -> Artefact:
        settings = read_settings()
        found = read_problems(settings, problems, count=count, seed=seed, kept=into / KEPT)
        parts = found.split_for_training(validation_share=validation_share, measuring_share=measuring_share)
        with local_engines(settings, into / "memory.sqlite3") as engines, showing_progress() as show:
            move = show("decisions computed")
            return learning.train(
                policy,
                *parts,
                engines,
                settings=ppo.Settings(seed=seed, batches=batches, large_token_price=large_token_price),
                state=into / f"{policy}.state.pt",
                card=_card(),
                report=_report,
                tell=lambda done: move(done, 0),
            )

    _finish(make, policy, into, server, registers=registers)


def _finish(make: Callable[[], Artefact], policy: str, into: Path, server: Api, *, registers: bool) -> None:
    """Make an artefact, write it, print its path, and register it if that is asked for.

    Raises:
        BadArtefact: The policy cannot decide with the artefact; nothing is written.
    """
    with server as api:
        if registers:
            api.get("/v1/policies")  # An unreachable service is found now, and not after hours.
        artefact = make()
        check_artefact(policy, artefact)
        path = into / f"{policy}.json"
        write_artefact(*artefact.encode(), path)
        print(path)
        if artefact.card.metrics:
            note(", ".join(f"{name} {value:g}" for name, value in artefact.card.metrics.items()))
        if registers:
            print(register(api, path))


def _card() -> dict[str, Any]:
    return {"created_at": datetime.now(UTC).replace(microsecond=0), "command": shlex.join(["trim", *sys.argv[1:]])}


def _report(made: Progress) -> None:
    best = made.best
    note(
        f"{made.batch} of {made.batches} batches: best so far {best.accuracy:.1%} with {best.large_tokens:.1f} large"
        f" tokens a problem, {best.escalated:.1%} escalated"
    )

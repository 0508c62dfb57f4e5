"""`trim replay`: evaluates a policy on recorded decisions, without any model unless it simulates."""

# ruff: noqa: PLC0415 - the models and their libraries are imported only where they are needed

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import requiring
from cli.estimates import lacks_interval
from cli.output import print_json, print_table
from cli.policies import check_source, fetch
from cli.policy_names import PolicyName, find_versions
from cli.progress import Show, note, showing_progress
from cli.service import AsJson, Limit, Server
from evaluation.replay import RecordedProblem
from evaluation.replay import replay as follow
from evaluation.replay_figures import lacks_figures, summary
from evaluation.runs.candidates import Candidate
from evaluation.runs.folder import RunFolder
from evaluation.runs.recorded import name_of, read_record
from shared.domain.roles import WorkerRole
from shared.policies.policy import FittedPolicy
from shared.policies.wrapping import Routing
from stack.artefact_files import read_artefact
from stack.client import Api, NoVersion

if TYPE_CHECKING:
    from evaluation.engines import LoadedEngines


@dataclass(frozen=True)
class _Group:
    """Problems that a policy solved with the same models."""

    recorded: str
    """Name of the policy."""
    models: dict[WorkerRole, str]
    """Models, as far as the records show them."""
    problems: list[Mapping[str, Any]]
    """The problems as the API returns them."""
    records: list[RecordedProblem]


def replay(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Policy such as `pomdp@3:large_token_price=0.002`.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder of `trim evaluate` whose problems to replay.")] = None,
    *,
    server: Server,
    batch: Annotated[str | None, typer.Option(metavar="ID", help="Batch whose problems to replay.")] = None,
    problem: Annotated[str | None, typer.Option(metavar="ID", help="Problem to replay.")] = None,
    artefact: Annotated[
        Path | None,
        typer.Option(metavar="CARD.json", help="Card of an artefact to decide with, beside its .npz file."),
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Solve the problems again, for figures that the record does not allow."),
    ] = False,
    limit: Limit = 5,
    as_json: AsJson = False,
) -> None:
    """Evaluate a policy on recorded decisions. Each figure is exact, weighted, or left out with the reason.

    With --simulate, the models of the settings solve the problems again in this process for figures that would be left
    out.
    """
    if sum(each is not None for each in (folder, batch, problem)) != 1:
        raise typer.BadParameter("name one of: a folder, --batch, --problem.")
    candidate = Candidate.parse(policy)
    check_source(PolicyName(candidate.name, candidate.version), artefact)
    found: dict[str, Any] = {"policy": policy, "records": []}
    with server as api, _simulating(wanted=simulate) as solve_again:
        build = _builder(api, candidate, artefact)
        for group in _groups(api, _problems(api, folder=folder, batch=batch, problem=problem)):
            routing = build(group.models)
            replayed = [follow(routing, record) for record in group.records]
            simulated = solve_again(routing, group) if lacks_figures(replayed) else []
            found["records"].append(
                {"recorded": group.recorded, "version": routing.number, **summary(replayed, simulated)}
            )
    if as_json:
        print_json(found)
    else:
        for record in found["records"]:
            _print(policy, record, limit=limit)


def _problems(api: Api, *, folder: Path | None, batch: str | None, problem: str | None) -> Iterator[Mapping[str, Any]]:
    if problem is not None:
        yield api.get(f"/v1/problems/{problem}")
    batches = [batch] if batch is not None else []
    if folder is not None:
        batches = list(RunFolder(folder).manifest().batches.values())
    for each in batches:
        yield from api.batch_problems(each)


def _groups(api: Api, problems: Iterable[Mapping[str, Any]]) -> Sequence[_Group]:
    """Read the records of problems. A problem joins the first group of its policy that used no other models."""
    groups: list[_Group] = []
    for problem in problems:
        record, name = read_record(api, problem), name_of(problem["policy"])
        fitting = (each for each in groups if each.recorded == name and _agree(each.models, record.models))
        if (group := next(fitting, None)) is None:
            groups.append(group := _Group(name, {}, [], []))
        group.models.update(record.models)
        group.problems.append(problem)
        group.records.append(record)
    # A baseline shows only the model that it used; the other groups show the others.
    for group in groups:
        for other in groups:
            if _agree(group.models, other.models):
                group.models.update(other.models)
    return groups


def _agree(models: Mapping[WorkerRole, str], others: Mapping[WorkerRole, str]) -> bool:
    return all(models.get(role, other) == other for role, other in others.items())


@contextmanager
def _simulating(*, wanted: bool) -> Iterator[Callable[[Routing, _Group], list[RecordedProblem]]]:
    """Yield what solves recorded problems again; the models are loaded for its first call, and kept for the block."""
    if not wanted:
        yield lambda _, __: []
        return
    with requiring("stack"):
        from cli.local_engines import local_engines, read_settings
        from evaluation.replay_simulation import simulate
    with ExitStack() as stack:

        @functools.cache
        def load() -> tuple[LoadedEngines, Show]:
            return stack.enter_context(local_engines(read_settings(), None)), stack.enter_context(showing_progress())

        def solve_again(routing: Routing, group: _Group) -> list[RecordedProblem]:
            engines, show = load()
            ended = [each for each, record in zip(group.problems, group.records, strict=True) if record.has_ended]
            return simulate(routing, ended, engines, recorded_by=group.models, tell=show("solutions"))

        yield solve_again


def _builder(api: Api, candidate: Candidate, card: Path | None) -> Callable[[Mapping[WorkerRole, str]], Routing]:
    """Return what builds the policy for the models of a record.

    A fitted policy decides with its artefact from files, or with the version of the service that is named, or with its
    default version for the models of the record.
    """
    routing, name, number = candidate.routing, candidate.name, candidate.version
    policy = routing.policy
    if not isinstance(policy, FittedPolicy):
        return lambda _: routing
    if card is not None:
        fitted = Routing(policy.fitted(read_artefact(card)), routing.wrappers)
        return lambda _: fitted
    versions = find_versions(api, PolicyName(name, number))

    @functools.cache
    def built(version: int) -> Routing:
        return Routing(policy.fitted(fetch(api, name, version)[0]), routing.wrappers, version)

    return lambda models: built(_fitting(versions, models)["version"])


def _fitting(versions: Sequence[Mapping[str, Any]], models: Mapping[WorkerRole, str]) -> Mapping[str, Any]:
    """Choose the version that was fitted on the models of a record.

    Where none was, or the record lacks what a fitted policy needs, any will do: a replay leaves out all problems.

    Raises:
        NoVersion: Several versions fit.
    """
    fitting = [each for each in versions if all(each["models"][role] == model for role, model in models.items())]
    if len(fitting) > 1 and WorkerRole.PRM in models:
        names = ", ".join(f"{each['policy']}@{each['version']}" for each in fitting)
        raise NoVersion(f"The record does not show which default version is for its models ({names}); name one.")
    return (fitting or versions)[0]


def _print(policy: str, record: Mapping[str, Any], *, limit: int) -> None:
    version = "" if record["version"] is None else f" (version {record['version']})"
    print(f"{policy}{version} on the record of {record['recorded']}: {record['problems']} problems")
    for reason, count in record["left_out"].items():
        print(f"{count} problems cannot be replayed: {reason}.")
    if sum(record["left_out"].values()) < record["problems"]:
        _print_figures(record["figures"])
        _print_divergences(record, limit=limit)
    print()


def _print_figures(figures: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        (
            name,
            each["label"].replace("_", " "),
            "-" if each["value"] is None else f"{each['value']:.4g}",
            "-" if each["low"] is None else f"{each['low']:.4g} to {each['high']:.4g}",
            _rests_on(each),
        )
        for name, each in figures.items()
    ]
    print()
    print_table(("figure", "label", "value", "95 %", "rests on"), rows)


def _print_divergences(record: Mapping[str, Any], *, limit: int) -> None:
    print(f"\nIt follows the record of {record['agreeing']} problems and leaves that of {record['diverging']}.")
    if record["unsupported"]:
        print(f"{record['unsupported']} problems have no weight: the record could not have gone the policy's way.")
    for each in record["divergences"][:limit]:
        recorded, other = _short(each["recorded"]), _short(each["policy"])
        if each["is_cut"]:
            other = "the same, but its budget may end the large step at another length"
        print(f"{each['problem_id']}, step {each['step']} (counted from 0): {recorded}; the policy: {other}")
    if (more := len(record["divergences"]) - limit) > 0:
        note(f"{more} more problems diverge; --json lists them.")


def _rests_on(figure: Mapping[str, Any]) -> str:
    if figure["reason"] is not None:
        return str(figure["reason"])
    rests = [f"{figure['problems']} problems"]
    if figure["effective_problems"] is not None:
        rests[0] += f", effectively {figure['effective_problems']:.1f}, mean weight {figure['mean_weight']:.2f}"
    if lacks_interval(figure):
        rests.append(f"undefined in {figure['undefined']:.0%} of the resamples")
    return "; ".join(rests)


def _short(decision: Mapping[str, Any] | None) -> str:
    if decision is None:
        return "has the step drafted"
    numbers = " / ".join(f"{decision[name]:.4g}" for name in ("value", "compared_with") if decision[name] is not None)
    return f"{decision['action']} ({decision['reason']}{' ' if numbers else ''}{numbers})"

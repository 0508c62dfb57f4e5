"""`trim replay`: evaluates a policy on recorded decisions, without any model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.estimates import lacks_interval
from cli.output import print_json, print_table
from cli.policies import check_source, fetch
from cli.policy_names import PolicyName, find_defaults, find_version
from cli.progress import note
from cli.service import AsJson, Limit, Server
from evaluation.replay import RecordedProblem
from evaluation.replay import replay as follow
from evaluation.replay_figures import summary
from evaluation.runs.candidates import Candidate
from evaluation.runs.folder import RunFolder
from evaluation.runs.recorded import name_of, read_record
from shared.domain.roles import WorkerRole
from shared.policies.policy import FittedPolicy
from shared.policies.wrapping import Routing
from stack.artefact_files import read_artefact
from stack.client import Api, NoVersion


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
    limit: Limit = 5,
    as_json: AsJson = False,
) -> None:
    """Evaluate a policy on recorded decisions. Each figure is exact, weighted, or left out with the reason."""
    if sum(each is not None for each in (folder, batch, problem)) != 1:
        raise typer.BadParameter("name one of: a folder, --batch, --problem.")
    candidate = Candidate.parse(policy)
    check_source(PolicyName(candidate.name, candidate.version), artefact)
    found: dict[str, Any] = {"policy": policy, "records": []}
    with server as api:
        build = _builder(api, candidate, artefact)
        groups: dict[tuple[object, ...], list[RecordedProblem]] = {}
        for each in _problems(api, folder=folder, batch=batch, problem=problem):
            record = read_record(api, each)
            # Not by the large model: solutions without an escalation do not show theirs.
            models = (record.models.get(role) for role in (WorkerRole.SMALL, WorkerRole.PRM))
            groups.setdefault((name_of(each["policy"]), *models), []).append(record)
        for (name, *_), records in groups.items():
            routing = build(records)
            replayed = [follow(routing, record) for record in records]
            found["records"].append({"recorded": name, "version": routing.number, **summary(replayed)})
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


def _builder(api: Api, candidate: Candidate, card: Path | None) -> Callable[[Sequence[RecordedProblem]], Routing]:
    """Return what builds the policy for recorded problems.

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
    versions = [find_version(api, PolicyName(name, number))] if number else find_defaults(api, name)
    if not versions:
        raise NoVersion(f"{name} has no default version; `trim policies versions {name}` lists all.")

    @functools.cache
    def built(version: int) -> Routing:
        return Routing(policy.fitted(fetch(api, name, version)[0]), routing.wrappers, version)

    return lambda records: built(_fitting(versions, records)["version"])


def _fitting(versions: Sequence[Mapping[str, Any]], records: Sequence[RecordedProblem]) -> Mapping[str, Any]:
    """Choose the version whose models are those of the record.

    Where none is, or the record lacks what a fitted policy needs, any will do: a replay leaves out all problems.

    Raises:
        NoVersion: Several versions fit.
    """
    used = {(role, model) for record in records for role, model in record.models.items()}
    fitting = [each for each in versions if all(each["models"][role] == model for role, model in used)]
    if len(fitting) > 1 and any(role is WorkerRole.PRM for role, _ in used):
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
        print(f"{each['problem_id']}, step {each['step']}: {recorded}; the policy: {other}")
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

"""`trim replay`: evaluates a policy on recorded decisions, without any model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.estimates import lacks_interval
from cli.output import print_json, print_table
from cli.policies import check_source, fetch
from cli.policy_names import PolicyName, find_version
from cli.progress import note
from cli.service import AsJson, Limit, Server
from evaluation.replay import replay as follow
from evaluation.replay_figures import summary
from evaluation.runs.candidates import Candidate
from evaluation.runs.folder import RunFolder
from evaluation.runs.recorded import name_of, read_record
from shared.policies.policy import FittedPolicy
from shared.policies.wrapping import Routing
from stack.artefact_files import read_artefact
from stack.client import Api


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
        routing = _routing(api, candidate, artefact)
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for each in _problems(api, folder=folder, batch=batch, problem=problem):
            groups.setdefault(name_of(each["policy"]), []).append(each)
        for name, problems in groups.items():
            replayed = [follow(routing, record) for record in read_record(api, problems)]
            found["records"].append({"recorded": name, **summary(replayed)})
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


def _routing(api: Api, candidate: Candidate, card: Path | None) -> Routing:
    """Build a policy; a fitted one gets its artefact from files, or that of its version from the service."""
    routing = candidate.routing
    if not isinstance(routing.policy, FittedPolicy):
        return routing
    if card is not None:
        return Routing(routing.policy.fitted(read_artefact(card)), routing.wrappers)
    version = find_version(api, PolicyName(candidate.name, candidate.version))["version"]
    artefact, _ = fetch(api, candidate.name, version)
    return Routing(routing.policy.fitted(artefact), routing.wrappers, version)


def _print(policy: str, record: Mapping[str, Any], *, limit: int) -> None:
    print(f"{policy} on the record of {record['recorded']}: {record['problems']} problems")
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

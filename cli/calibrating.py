"""`trim policies calibrate`: which setting of a policy, for your models and your problems."""

# ruff: noqa: PLC0415 - the models and their libraries are imported only where they are needed

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.errors import requiring
from cli.learning import Count, FromDatabase, Problems, Seed, check_sources
from cli.output import print_json, print_table
from cli.policies import check_source, fetch
from cli.policy_names import AnyPolicy, PolicyName, find_versions
from cli.progress import showing_progress
from cli.service import AsJson, Server
from shared.domain.artefacts import ModelIds
from shared.policies.artefact import Artefact
from shared.policies.policy import FittedPolicy
from stack.artefact_files import read_artefact
from stack.client import Api, NoVersion

if TYPE_CHECKING:
    from evaluation.setting_choice import Calibration, Estimate, Target

SAME_PROBLEMS: Final = (
    "The setting is chosen on the same problems that its figures are measured on, so the figures are a little"
    " optimistic."
)
"""Limit of the figures, for people and programs."""

ShareOption = Annotated[
    float | None,
    typer.Option("--target-large-share", min=0, max=1, help="Share of the large model's tokens to spend at most."),
]
AccuracyOption = Annotated[
    float | None, typer.Option("--target-accuracy", min=0, max=1, help="Accuracy to reach at least.")
]


def calibrate(
    policy: AnyPolicy,
    problems: Problems = None,
    *,
    server: Server,
    target_large_share: ShareOption = None,
    target_accuracy: AccuracyOption = None,
    from_database: FromDatabase = False,
    artefact: Annotated[
        Path | None,
        typer.Option("--artefact", metavar="FILE.json", help="Artefact of a fitted policy, instead of the service's."),
    ] = None,
    parameters: Annotated[str, typer.Option("--parameters", metavar="JSON", help="Its other parameters.")] = "{}",
    points: Annotated[
        int, typer.Option("--points", min=3, max=200, help="Number of settings in each of two rounds.")
    ] = 12,
    count: Count = 500,
    seed: Seed = 0,
    memory: Annotated[
        Path | None,
        typer.Option("--memory", metavar="FILE", help="File that keeps what the models write, for later commands."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the setting of a policy that meets a target, for the models that the settings name.

    It solves the problems with the policy at many settings, and prints the one that meets the target, with 95 %
    intervals over problems. The setting is chosen on the same problems that its figures are measured on, so the
    figures are a little optimistic.
    """
    check_sources({"a file of problems": problems, "--from-database": from_database})
    others = _parameters(parameters)
    if (target_large_share is None) == (target_accuracy is None):
        raise typer.BadParameter("name either --target-large-share or --target-accuracy")
    with requiring("stack"):
        from cli.local_engines import local_engines, read_problems, read_settings
        from evaluation.dials import DIALS
        from evaluation.setting_choice import Target, find_setting
        from evaluation.setting_search import Candidate, Curve
        from shared.domain.options import Sampling
    if policy.name not in DIALS:
        raise typer.BadParameter(f"{policy.name} has no setting to calibrate; name one of {', '.join(sorted(DIALS))}")
    check_source(policy, artefact)
    if (dial := DIALS[policy.name].parameter) in others:
        raise typer.BadParameter(f"{dial} is what a calibration of {policy.name} chooses; omit it from --parameters.")
    if target_large_share is not None:
        target = Target("large_share", target_large_share)
    else:
        target = Target("accuracy", target_accuracy or 0.0)
    settings = read_settings()
    candidate = Candidate(name=policy.name, parameters=others, artefact=read_artefact(artefact) if artefact else None)
    needs_version = isinstance(candidate.build(), FittedPolicy) and artefact is None
    found = read_problems(settings, problems, count=count, seed=seed)
    with server as api:
        versions = find_versions(api, policy) if needs_version else []
        with local_engines(settings, memory) as engines, showing_progress() as show:
            if needs_version:
                candidate = replace(candidate, artefact=_fetch_for(engines.models, api, policy, versions))
            curve = Curve(candidate, found.problems, engines, sampling=Sampling(seed=seed), show=show)
            curve.approach(target, points=points)
    result = find_setting(curve.study, curve.values, target, seed=seed)
    _show(policy, candidate.dial.parameter, target, result, problems=len(found.problems), as_json=as_json)


def _fetch_for(models: ModelIds, api: Api, policy: PolicyName, versions: Sequence[Mapping[str, Any]]) -> Artefact:
    """Read the artefact of the version that was fitted on the models.

    Raises:
        NoVersion: None was.
    """
    for each in versions:
        if each["models"] == asdict(models):
            return fetch(api, policy.name, each["version"])[0]
    raise NoVersion(
        f"The service has no {policy} for {models.small}, {models.large} and {models.prm}; `trim policies versions"
        f" {policy.name}` lists all, and `trim policies fit` and `train` make one."
    )


def _parameters(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise typer.BadParameter('--parameters is a JSON object, such as {"of": "least"}')
    return values


def _show(
    policy: PolicyName, parameter: str, target: Target, result: Calibration, *, problems: int, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "policy": str(policy),
                "parameter": parameter,
                "target": asdict(target),
                "problems": problems,
                **asdict(result),
                "note": SAME_PROBLEMS,
            }
        )
        return
    print_table(
        ("", "value", "95 % interval"),
        [
            (parameter, f"{result.setting.value:.6g}", _range(result.setting, ".6g")),
            ("large tokens", f"{result.large_share.value:.1%}", _range(result.large_share, ".1%")),
            ("accuracy", f"{result.accuracy.value:.1%}", _range(result.accuracy, ".1%")),
            ("target reached", f"{result.reached:.1%}", "of resamples, by this setting"),
        ],
    )
    print(SAME_PROBLEMS)


def _range(estimate: Estimate, form: str) -> str:
    return f"{estimate.interval.low:{form}} to {estimate.interval.high:{form}}"

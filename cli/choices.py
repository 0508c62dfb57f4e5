"""Options of commands that submit problems."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from trim_client import BadPolicyText, Options, parse_policy

PolicyText = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="Policy such as `threshold:threshold=0.7` or `pomdp@3:budget=300`: name, version, parameters and wrappers."
        " `trim policies list` lists them.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", min=0, max=1, help="Threshold of the policy, without --policy that of `threshold`."),
]
Lookahead = Annotated[
    str | None, typer.Option("--lookahead", metavar="N", help="Steps to draft ahead: a number, or `unlimited`.")
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", min=0, max=2, help="Sampling temperature; 0 is greedy.")
]
SamplingSeed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the sampling; drawn if omitted.")]
DeadlineS = Annotated[
    float | None,
    typer.Option("--deadline", min=0.001, metavar="SECONDS", help="Seconds until a problem expires unsolved."),
]


def chosen(
    *,
    policy: str | None,
    threshold: float | None,
    lookahead: str | None,
    temperature: float | None,
    seed: int | None,
    deadline_s: float | None,
) -> Options:
    """Return what the options of a command choose; the service has defaults for the others.

    Raises:
        BadParameter: An option cannot be read, or two contradict each other.
    """
    found: dict[str, Any] = {}
    if policy is not None or threshold is not None:
        found["policy"] = _policy(policy or "threshold", threshold)
    if lookahead is not None:
        if not lookahead.isdecimal() and lookahead != "unlimited":
            raise typer.BadParameter(f"--lookahead is a number or `unlimited`, not {lookahead!r}.")
        found["lookahead"] = int(lookahead) if lookahead.isdecimal() else lookahead
    sampling = {name: value for name, value in (("temperature", temperature), ("seed", seed)) if value is not None}
    if sampling:
        found["sampling"] = sampling
    if deadline_s is not None:
        found["deadline_s"] = deadline_s
    return cast("Options", found)


def _policy(text: str, threshold: float | None) -> dict[str, Any]:
    try:
        policy = parse_policy(text)
    except BadPolicyText as error:
        raise typer.BadParameter(f"--policy: {error}") from error
    if threshold is not None:
        if "threshold" in policy["parameters"]:
            raise typer.BadParameter("--policy has a threshold; omit --threshold.")
        policy["parameters"]["threshold"] = threshold
    return policy

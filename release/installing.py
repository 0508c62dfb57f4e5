"""Installs the wheel with each extra into a clean environment, and runs its programs; then the client alone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from uv import find_uv_bin

from release.building import Artefacts
from release.locks import DEVELOPMENT
from release.project import CLIENT, EXTRAS, NAME, REQUIREMENTS, ReleaseRefused, included_extras
from shared.version import PRODUCT, VERSION

COMMAND_TIMEOUT_S = 600
"""Time limit of one command; the sample takes a minute on a busy machine."""

NOT_INSTALLED: Mapping[str, str] = {
    "dev": "tools of this repository",
    "engine-tests": "tools of this repository",
    "vllm": "its build depends on the accelerator; make test-vllm installs and runs it",
}
"""Extras that are not installed, and why."""

LOAD_ENGINE = """
from shared.domain.roles import Author
from shared.engines import factory
from shared.settings import Settings

factory.make_generator(Settings(), Author.SMALL)
factory.make_scorer(Settings())
"""

SERVERS = {
    "TRIM_ENGINE": "openai",
    "TRIM_SMALL_MODEL": "small",
    "TRIM_SMALL_URL": "http://127.0.0.1:9/v1",
    "TRIM_PRM_MODEL": "prm",
    "TRIM_PRM_URL": "http://127.0.0.1:9/v1",
}
"""Settings with addresses where no server is: its client is made, and not used."""


def _help(*modules: str) -> tuple[Sequence[str], ...]:
    return tuple(["python", "-m", module, "--help"] for module in modules)


@dataclass(frozen=True, slots=True)
class Trial:
    """Extras that are installed together, and what is then run."""

    extras: str
    commands: Sequence[Sequence[str]] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    without: str = ""
    """A library that is left out."""


WORKER = (*_help("services.generator", "services.prm"), ["python", "-c", LOAD_ENGINE])

TRIALS = (
    # First, because it takes longest.
    Trial("stack", [["python", "-m", "stack", "--version"], ["python", "-m", "stack", "run"]]),
    Trial("api", _help("services.api")),
    Trial("api,exports", [["python", "-c", "from services.api.exports.tables import ParquetTable; ParquetTable()"]]),
    Trial("orchestrator,migrations", _help("services.orchestrator", "migrations")),
    Trial("worker,embedded", WORKER),
    Trial("worker,openai", WORKER, SERVERS),
    Trial("cli", [["trim", "--help"], ["trim", "--version"], ["trim", "evaluate", "--help"]]),
    Trial("cli,reports", [["python", "-c", "import evaluation.report.writing"]]),
    # Its build is the user's choice; the command names what is missing.
    Trial("cli,train", [["trim", "policies", "train", "--help"]], without="torch"),
)


USE_CLIENT = f"""
from importlib.util import find_spec

import trim_client

assert trim_client.VERSION == {VERSION!r}
assert not [name for name in ("shared", "services", "cli", "rich", "typer", "numpy") if find_spec(name)]
with trim_client.Client("http://127.0.0.1:9", max_retries=0) as client:
    try:
        client.health.live()
    except trim_client.Unreachable:
        pass
"""
"""Program that needs the client and its two libraries alone, in an environment that has nothing else."""

CLIENT_ALONE = Trial(CLIENT, [["python", "-c", USE_CLIENT]])
"""The client in an environment without the service."""


class Result(NamedTuple):
    """How a trial ended."""

    extras: str
    seconds: float
    fault: str
    """What failed, with its output; empty if nothing did."""


def trials() -> Iterator[Trial]:
    """List the trials: those above, and one for each extra of pyproject.toml that none of them includes."""
    yield from TRIALS
    covered = {each for trial in TRIALS for extra in trial.extras.split(",") for each in included_extras(extra)}
    yield from (Trial(extra) for extra in EXTRAS if extra not in covered and extra not in NOT_INSTALLED)


def run_trials(artefacts: Artefacts, folder: Path, *, python: str) -> Iterator[Result]:
    """Run all trials with one Python, two at a time on two cores, and yield their results in their order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        every = (*trials(), CLIENT_ALONE)
        yield from pool.map(lambda trial: _run_trial(trial, artefacts, folder, python=python), every)


def _run_trial(trial: Trial, artefacts: Artefacts, folder: Path, *, python: str) -> Result:
    started = time.monotonic()
    place = folder / trial.extras.replace(",", " and ")  # With spaces, which a path may have.
    place.mkdir()
    fault = ""
    try:
        _install(trial, artefacts, place, python=python)
        for command in trial.commands:
            _check(command, _run([str(place / "bin" / command[0]), *command[1:]], place / "run", trial.settings))
    except ReleaseRefused as refusal:
        fault = str(refusal)
    return Result(trial.extras, time.monotonic() - started, fault)


def _install(trial: Trial, artefacts: Artefacts, place: Path, *, python: str) -> None:
    """Install the wheels that a trial needs, with the versions that the lock files pin."""
    uv = find_uv_bin()
    excluded = place / "excluded.txt"
    excluded.write_text(trial.without, encoding="utf-8")
    constraints = ["--constraint", str(REQUIREMENTS / f"{DEVELOPMENT}.lock"), "--excludes", str(excluded)]
    (place / "run").mkdir()
    _run([uv, "venv", "--quiet", "--allow-existing", "--no-python-downloads", "--python", python, str(place)], place)
    target = ["--quiet", "--python", str(place / "bin" / "python")]
    _run([uv, "pip", "install", *target, *constraints, *_wheels(trial, artefacts)], place)


def _wheels(trial: Trial, artefacts: Artefacts) -> Iterator[str]:
    """Name what to install: the client is not taken from an index, where another release of it may be."""
    client = f"{CLIENT} @ {artefacts.client_wheel.as_uri()}"
    if trial is CLIENT_ALONE:
        yield client
        return
    yield f"{NAME}[{trial.extras}] @ {artefacts.wheel.as_uri()}"
    included = [each for extra in trial.extras.split(",") for each in included_extras(extra)]
    if any(requirement.startswith(CLIENT) for extra in included for requirement in EXTRAS[extra]):
        yield client


def _run(command: Sequence[str], place: Path, settings: Mapping[str, str] | None = None) -> str:
    """Run a command outside the checkout and without its variables, and return what it prints.

    Raises:
        ReleaseRefused: It failed.
    """
    left_out = ("PYTHONPATH", "VIRTUAL_ENV")
    inherited = {key: text for key, text in os.environ.items() if key not in left_out and not key.startswith("TRIM_")}
    try:
        done = subprocess.run(
            command,
            cwd=place,
            env=inherited | dict(settings or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
            umask=0o022,  # For root, the embedded Postgres runs as another user, which must read its libraries.
        )
    except subprocess.TimeoutExpired as late:
        raise ReleaseRefused(f"{' '.join(command)}\ndid not end within {COMMAND_TIMEOUT_S} s") from late
    if done.returncode:
        raise ReleaseRefused(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def _check(command: Sequence[str], printed: str) -> None:
    if command[-1] == "--version" and printed.strip() != PRODUCT:
        raise ReleaseRefused(f"{' '.join(command)} printed {printed.strip()}, not {PRODUCT}")

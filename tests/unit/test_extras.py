"""The extras: what one installs is all that its process imports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.test_repository import CLIENT, IMAGES, PROJECT, ROOT, pins_of, requirements_of

WITHOUT = """
import importlib, runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

missing = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Missing())
"""
"""Start of a program in which modules cannot be imported, as if they were not installed."""

PROCESSES = {
    "api": ["services.api.server"],
    "orchestrator": ["services.orchestrator.orchestrator"],
    "migrations": ["migrations"],
    "worker": ["services.generator.serving", "services.prm.serving", "shared.engines.scripted"],
    "worker,embedded": ["services.prm.serving", "shared.engines.embedded.generator", "shared.engines.embedded.scorer"],
    "worker,openai": ["services.prm.serving", "shared.engines.openai.generator", "shared.engines.openai.scorer"],
    "pgmq": ["shared.bus.pgmq_server", "shared.bus.pgmq_transport"],
    "cli": ["cli.app"],
}
"""Modules of each process, by the extras that it is installed with; the engines are imported on demand."""


def installed_by(extras: str) -> set[str]:
    """Name the libraries that extras install, with all that those depend on."""
    wanted = [requirement for extra in extras.split(",") for requirement in requirements_of(extra)]
    found: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for library, extra in found if library == name}:
            found.add((name, extra))
            depends_on = map(Requirement, requires(name) or ())
            wanted += [each for each in depends_on if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def importable_without(extras: str) -> Iterator[str]:
    """Name the modules of this environment that extras do not install."""
    named = {each.partition("=")[0] for extra in extras.split(",") for each in PROJECT["optional-dependencies"][extra]}
    installed = {PROJECT["name"], *installed_by(extras), *({CLIENT["name"]} & named)}
    for module, libraries in packages_distributions().items():
        if installed.isdisjoint(map(canonicalize_name, libraries)):
            yield module


@pytest.mark.parametrize(("extras", "modules"), PROCESSES.items())
def test_a_process_imports_nothing_that_its_extras_do_not_install(extras: str, modules: Sequence[str]) -> None:
    missing = set(importable_without(extras))
    assert "pytest" in missing
    program = WITHOUT + "for name in sys.argv[2:]: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", program, ",".join(missing), *modules],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("extras", ["worker", "worker,embedded", "worker,openai"])
def test_a_worker_on_rabbitmq_installs_no_database_driver_and_no_web_framework(extras: str) -> None:
    assert installed_by(extras).isdisjoint({"psycopg", "pgmq", "sqlalchemy", "alembic", "fastapi", "uvicorn"})


@pytest.mark.parametrize(("image", "extras"), IMAGES.items())
def test_the_lock_of_an_image_holds_what_its_extras_install_and_nothing_else(image: str, extras: Sequence[str]) -> None:
    pins, installed = pins_of(image), installed_by(",".join(extras))
    assert installed <= pins.keys()
    # What is not installed here is for other platforms or versions of Python.
    for name in pins.keys() - installed:
        assert all(" ; " in entry for entry in pins[name]), f"{name} is in {image}.lock; run make lock"


def test_the_api_and_the_orchestrator_install_nothing_of_the_other() -> None:
    assert installed_by("api").isdisjoint({"celery", "kombu", "alembic", "onnxruntime"})
    assert installed_by("orchestrator").isdisjoint({"fastapi", "uvicorn", "alembic", "onnxruntime"})


@pytest.mark.parametrize("role", [["services.generator", "small"], ["services.prm"], ["services.orchestrator"]])
def test_a_role_without_pgmq_reports_the_extra_that_its_broker_url_needs(role: Sequence[str]) -> None:
    run = "sys.argv = sys.argv[2:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", f"{WITHOUT}{run}", "pgmq", *role],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "TRIM_BROKER_URL": "pgmq://trim@127.0.0.1/trim", "TRIM_DATABASE_URL": "postgresql://host/x"},
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "TRIM_BROKER_URL names pgmq, which needs pgmq, and that is not installed" in line
    assert "pip install '.[pgmq]'" in line


@pytest.mark.parametrize(
    ("command", "status", "sentence"),
    [
        (["check"], 2, "install it with pip install '.[store]'."),
        (["dead-letters", "list"], 2, "install it with pip install '.[bus]'."),
        (["doctor", "--server", "http://127.0.0.1:1"], 3, "install it with pip install '.[store]'."),
    ],
)
def test_a_command_for_operators_names_the_extra_that_it_lacks(
    command: Sequence[str], status: int, sentence: str, tmp_path: Path
) -> None:
    program = WITHOUT + "sys.argv[:2] = ['trim']; from cli.entry import main; main()"
    named = {"TRIM_DATABASE_URL": "postgresql://127.0.0.1:1/x", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, ",".join(importable_without("cli")), *command],
        cwd=tmp_path, env={**os.environ, **named}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    shown = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode, sentence in shown) == (status, True), shown
    assert "Traceback" not in shown

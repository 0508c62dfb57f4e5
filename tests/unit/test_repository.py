"""The lock files, the Makefile's targets, the size of files and functions, and the content of the wheel."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLIENT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
"""The client, which is built from this repository, so that no lock holds it."""
MAKEFILE = (ROOT / "Makefile").read_text()
LOCKS = {path.stem: path for path in (ROOT / "requirements").glob("*.lock")}
IMAGES = {image: extras.split() for image, extras in re.findall(r"^EXTRAS_([a-z-]+) := (.+)$", MAKEFILE, re.MULTILINE)}
"""Images with a lock file, and the extras in each."""

CALL_IN_PAGE = r"(?:`|^ {4})make ([a-z][a-z-]*)"
CALL_IN_SCRIPT = r"^(?:.*entry: )?make ([a-z][a-z-]*)"

FILE_LINES = 350
FUNCTION_LINES = 40
LONG = re.compile(r"# long: \w")

PIN = re.compile(r"[a-z0-9-]+==[0-9][^;\s]*( ; [^\n]+)? \\(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+(\n    #[^\n]*)*")


# Lock files


def requirements_of(extra: str) -> Iterator[Requirement]:
    """List the libraries that an extra installs, with those of its other extras and of the client that it includes."""
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            for included in requirement.extras:
                yield from requirements_of(included)
        elif requirement.name == CLIENT["name"]:
            yield from map(Requirement, CLIENT["dependencies"])
        else:
            yield requirement


def pins_of(lock: str) -> Mapping[str, Sequence[str]]:
    """Read the entries of a lock file, each with its hashes; a library has several where platforms differ."""
    pins = defaultdict(list)
    # What follows a blank line names the packages that a lock leaves out.
    for entry in re.split(r"\n(?=[a-zA-Z0-9])", LOCKS[lock].read_text().partition("\n\n")[0]):
        if not entry.startswith("#"):
            pins[canonicalize_name(entry.partition("==")[0])].append(entry)
    return pins


@pytest.mark.parametrize(
    ("lock", "extra"),
    [
        ("stack", "stack"),
        *(("dev", extra) for extra in ("dev", "engine-tests", "train")),
        *((image, extra) for image, extras in IMAGES.items() for extra in extras),
    ],
)
def test_every_requirement_of_an_extra_is_pinned_to_a_version_that_satisfies_it(lock: str, extra: str) -> None:
    pins = pins_of(lock)
    for requirement in requirements_of(extra):
        if requirement.name == "torch":
            continue  # the user chooses its build
        entries = pins[canonicalize_name(requirement.name)]
        assert entries, f"{requirement.name} is not in {lock}.lock; run make lock"
        for entry in entries:
            pinned = Requirement(entry.partition(" \\")[0])
            [version] = pinned.specifier
            assert requirement.specifier.contains(version.version), f"{requirement} against {entry}; run make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash_and_no_other_option(lock: str) -> None:
    entries = [entry for entries in pins_of(lock).values() for entry in entries]
    assert len(entries) > 20
    for entry in entries:
        assert PIN.fullmatch(entry.rstrip("\n")), entry


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_url_and_no_absolute_path(lock: str) -> None:
    assert not re.findall(r".*://.*|.*(?<![\w.-])[/~].*", LOCKS[lock].read_text())


def versions_of(entries: Sequence[str]) -> set[tuple[str, ...]]:
    """List the versions that a lock pins a library to, each with its hashes."""
    return {(entry.partition(" ")[0], *re.findall(r"sha256:\w+", entry)) for entry in entries}


@pytest.mark.parametrize("lock", ["dev", *IMAGES])
def test_what_several_locks_pin_they_pin_alike(lock: str) -> None:
    stack, other = pins_of("stack"), pins_of(lock)
    for name in stack.keys() & other.keys():
        assert versions_of(other[name]) == versions_of(stack[name])
    everything = stack.keys() <= other.keys() if lock == "dev" else other.keys() <= stack.keys()
    assert everything, f"{lock}.lock has other libraries than stack.lock"


def test_every_image_has_a_lock_and_every_lock_is_one_of_an_image_or_an_environment() -> None:
    assert {*LOCKS} == {"stack", "dev", *IMAGES}


def test_no_lock_chooses_a_build_of_torch_or_a_release_of_the_client() -> None:
    for lock in LOCKS:
        assert not {"torch", "vllm", CLIENT["name"]} & set(pins_of(lock))


# Make targets


def targets() -> Mapping[str, str]:
    """Find the public targets of the Makefile, each with its recipe."""
    return dict(re.findall(r"^([a-z][a-z-]*):(?! SHELL)([^\n]*(?:\n\t[^\n]*)*)", MAKEFILE, re.MULTILINE))


def test_every_make_target_that_is_named_exists() -> None:
    scripts = (ROOT / ".ci" / "run", ROOT / ".pre-commit-config.yaml")
    named = {
        (page.name, target)
        for page in [*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md"), *scripts]
        for target in re.findall(CALL_IN_SCRIPT if page in scripts else CALL_IN_PAGE, page.read_text(), re.MULTILINE)
    }
    every_check = targets()["check-all"].split("##")[0].split()
    assert {("README.md", "run"), ("CONTRIBUTING.md", "check-all"), *(("run", check) for check in every_check)} <= named
    assert {(page, target) for page, target in named if target not in targets()} == set()


def test_every_make_target_is_explained_and_at_most_three_lines_long() -> None:
    assert next(iter(targets())) == "help"
    for target, recipe in targets().items():
        assert re.search(r"## [A-Z]", recipe.splitlines()[0]), target
        assert recipe.count("\n\t") <= 3, target


# Sizes


def sources() -> Iterator[tuple[str, str]]:
    """Read the modules whose size is limited."""
    for folder in ("client", "services", "shared"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def functions_of(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Find all functions below a node, each with its qualified name."""
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{prefix}{child.name}."
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{child.name}", child
        yield from functions_of(child, inner)


def long_functions(text: str) -> Iterator[str]:
    """Name the functions that are too long and do not give a reason on the line of the `def` or the line above."""
    lines = text.splitlines()
    for name, function in functions_of(ast.parse(text)):
        assert function.end_lineno is not None
        has_reason = any(LONG.search(line) for line in lines[max(0, function.lineno - 2) : function.lineno])
        if function.end_lineno - function.lineno + 1 > FUNCTION_LINES and not has_reason:
            yield name


def test_no_file_is_too_long() -> None:
    found = {path for path, text in sources() if len(text.splitlines()) > FILE_LINES}
    assert found == set()


def test_no_function_is_too_long_without_a_reason() -> None:
    found = {f"{path}::{name}" for path, text in sources() for name in long_functions(text)}
    assert found == set()


@pytest.mark.parametrize(
    ("before", "lines", "found"),
    [
        ("", FUNCTION_LINES, []),
        ("", FUNCTION_LINES + 1, ["Owner.act"]),
        ("    # long: one table\n", FUNCTION_LINES + 1, []),
        ("    # long:\n", FUNCTION_LINES + 1, ["Owner.act"]),
    ],
)
def test_a_function_is_measured_from_its_def_to_its_last_line(before: str, lines: int, found: list[str]) -> None:
    body = "        act()\n" * (lines - 1)
    assert list(long_functions(f"class Owner:\n{before}    async def act(self):\n{body}")) == found


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """Build the wheel in a copy, because setuptools writes into the source folder; return the names of its files."""
    folder = tmp_path_factory.mktemp("wheel") / "copy"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, "dist"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [built] = (folder / "dist").glob("*.whl")
    with ZipFile(built) as archive:
        return frozenset(archive.namelist())


def test_the_wheel_holds_the_service_its_models_and_its_migrations(wheel: frozenset[str]) -> None:
    assert {
        "services/api/app.py",
        "shared/messages.py",
        "stack/__main__.py",
        "migrations/script.py.mako",
        "migrations/versions/0001_expand_first_schema.py",
        "models/sample.jsonl",
    } <= wheel
    for path in (ROOT / "models").glob("*/*"):
        if path.suffix in {".json", ".jinja", ".onnx", ".safetensors"}:
            assert path.relative_to(ROOT).as_posix() in wheel


def test_the_wheel_holds_no_benchmark_no_recipe_and_no_test(wheel: frozenset[str]) -> None:
    folders = {name.partition("/")[0] for name in wheel if ".dist-info/" not in name}
    assert folders == {
        "cli",
        "evaluation",
        "migrations",
        "models",
        "services",
        "shared",
        "simulation",
        "stack",
        "training",
    }

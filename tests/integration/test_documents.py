"""Commands, queries and links of the README and the documents work as printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.deployment import Deployment, deployed
from shared.store import policy_versions
from shared.store.database import Database
from stack.postgres import BIN
from stack.scratch import scratch_database
from tests.unit.policies.pomdp_models import artefact_of, released_model

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FOLLOWING = (ROOT / "docs" / "following.md").read_text()
AUDIT = (ROOT / "docs" / "audit.md").read_text()
CALIBRATION = (ROOT / "docs" / "prm-calibration.md").read_text()
MANY = (ROOT / "docs" / "many-problems.md").read_text()
SCRIPT = {
    "default": [{"small": "One.", "large": "Two.", "score": 0.1}, {"small": "So \\boxed{42}."}],
    "problems": {"What has other scores?": [{"small": "So \\boxed{42}.", "score": 0.7}]},
}

ARTEFACT = artefact_of(released_model(), small="scripted/small", large="scripted/large", prm="scripted/prm").encoded
"""A version of the policy `pomdp` for the models of the script."""

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> Iterator[Deployment]:
    with scratch_database(postgres_server) as url:
        broker = url.replace("postgresql", "pgmq", 1)
        with closing(Database(url)) as database, database.session() as session:
            policy_versions.register(session, ARTEFACT)
        with deployed(tmp_path_factory.mktemp("readme"), database_url=url, broker_url=broker, script=SCRIPT) as running:
            yield running


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's examples are written for curl")
def test_every_curl_command_of_the_readme_succeeds(deployment: Deployment) -> None:
    commands = [
        command.strip()
        for block in re.findall(r"```console\n(.*?)```", README + FOLLOWING, re.DOTALL)
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)
        if command.strip()
    ]
    assert len(commands) >= 9
    problem_id = ""
    for command in commands:
        if command.startswith("ID="):
            continue  # the reader fills it in
        typed = command.replace("localhost:8080", deployment.api.address).replace("$ID", problem_id)
        done = subprocess.run(["bash", "-c", f"{typed} -f"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if "/events" in command:
            assert "event: end\n" in done.stdout
            continue
        answer = json.loads(done.stdout)
        if not problem_id:
            problem_id = answer["id"]
        if "wait_s" in command:
            assert answer["status"] == "succeeded"


OPENAI = (ROOT / "docs" / "openai.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's examples are written for curl")
def test_every_command_for_clients_of_openais_api_succeeds(deployment: Deployment) -> None:
    [block] = re.findall(r"```console\n(.*?)```", OPENAI, re.DOTALL)
    commands = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    assert len(commands) == 3
    for command in commands:
        typed = command.strip().replace("localhost:8080", deployment.api.address)
        done = subprocess.run(["bash", "-c", f"{typed} -f"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert ("[DONE]" in done.stdout) == ('"stream": true' in command)


def test_the_example_for_openais_client_runs_as_printed(deployment: Deployment) -> None:
    [example] = re.findall(r"```python\n(.*?)```", OPENAI, re.DOTALL)
    typed = example.replace("http://127.0.0.1:8080", deployment.api.address)
    direct = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", typed], env=direct, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    first, *_ = done.stdout.splitlines()
    assert first, done.stdout
    assert "42" in done.stdout


def recipes(deployment: Deployment) -> list[str]:
    """List the recipes for auditors, with the ids of a problem that was solved for them."""
    [problem_id] = deployment.submit(1, shadows=[{"name": "small-only"}])
    [row] = deployment.finish([problem_id])
    ids = {":'problem'": f"'{problem_id}'", ":'batch'": f"'{row['batch_id']}'"}
    found = re.findall(r"```sql\n(.*?)```", AUDIT, re.DOTALL)
    # Step 0 exists in this short solution.
    found = [recipe.replace("step = 7", "step = 0").replace("%", "%%") for recipe in found]
    return [re.sub(":'(problem|batch)'", lambda name: ids[name[0]], recipe) for recipe in found]


def test_every_recipe_for_auditors_can_be_pasted_into_psql(deployment: Deployment) -> None:
    [row] = deployment.finish(deployment.submit(1))
    ids = [f"--set=problem={row['id']}", f"--set=batch={row['batch_id']}", "--set=ON_ERROR_STOP=1"]
    pasted = "".join(re.findall(r"```sql\n(.*?)```", AUDIT, re.DOTALL))
    done = subprocess.run(
        [BIN / "psql", "--no-psqlrc", *ids, deployment.database_url],
        input=pasted,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(" row") == pasted.count(";\n"), done.stdout


def test_every_recipe_for_auditors_runs_and_those_for_defects_find_none(deployment: Deployment) -> None:
    found = recipes(deployment)
    assert len(found) >= 10
    for recipe in found:
        assert (deployment.rows(recipe) == []) == (" no rows." in recipe.lower()), recipe


@pytest.mark.parametrize(
    ("sign", "defect"),
    [
        ("kept.small", "UPDATE problems SET large_out = large_out + 1"),
        ("kept.small", "UPDATE problems SET small_discarded = 0"),
        ("DISTINCT ON (step)", "UPDATE steps SET text = 'Something else.'"),
        ("DISTINCT ON (step)", "UPDATE steps SET author = 'small'"),
        ("AS submitted", "UPDATE problems SET policy_revision = policy_revision + 1"),
    ],
)
def test_a_recipe_for_defects_finds_one(deployment: Deployment, sign: str, defect: str) -> None:
    [recipe] = [each for each in recipes(deployment) if sign in each]
    assert deployment.rows(recipe) == []
    deployment.rows(f"{defect} RETURNING 1")
    assert deployment.rows(recipe) != []


@dataclass(frozen=True)
class Shell:
    """Runs commands as a reader of the documents would, in an empty folder."""

    deployment: Deployment
    folder: Path

    def batch(self, question: str) -> str:
        """Solve 10 problems with one question, half of them with another reference than the answer."""
        problems = [{"question": question, "reference": "42" if index % 2 else "7"} for index in range(10)]
        return str(self.deployment.finish(self.deployment.submit_all(problems))[0]["batch_id"])

    def run(self, command: str, **names: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        known = {**os.environ, **names, "PATH": path, "TRIM_SERVER": self.deployment.api.address}
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=known, capture_output=True, text=True, check=False
        )


@pytest.fixture
def shell(deployment: Deployment, tmp_path: Path) -> Shell:
    return Shell(deployment, tmp_path)


def test_every_command_on_the_quality_of_a_prm_works_as_printed(shell: Shell) -> None:
    names = {"BATCH": shell.batch("What is it?"), "LATER": shell.batch("What is it later?")}
    commands = re.findall(r"^\$ (trim .*)$", CALIBRATION, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        done = shell.run(command, **names)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "scripted/prm" in done.stdout
    found = json.loads(shell.run("trim prm calibration $BATCH --json", **names).stdout)
    assert (found["prm"], found["problems_with_scores"], found["problems_left_out"]) == ("scripted/prm", 10, {})
    assert [(each["count"], each["right"]) for each in found["bins"]] == [(20, 0.5)]
    assert found["corrections"]["fitted_on"] == 5

    names["LATER"] = shell.batch("What has other scores?")
    shifted = shell.run("trim prm drift $LATER --reference reference.json --json", **names)
    assert (shifted.returncode, json.loads(shifted.stdout)["drift"]) == (4, "shifted")
    reference = shell.folder / "reference.json"
    reference.write_text(reference.read_text().replace("scripted/prm", "another/prm"))
    refused = shell.run("trim prm drift $BATCH --reference reference.json", **names)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == ("trim: The problems have no scores of another/prm, but of scripted/prm.\n")


@pytest.mark.skipif(not all(map(shutil.which, ("curl", "jq"))), reason="the page's commands need curl and jq")
def test_every_command_on_many_problems_works_as_printed(shell: Shell) -> None:
    commands = [
        command.strip().replace("localhost:8080", shell.deployment.api.address)
        for block in re.findall(r"```console\n(.*?)```", MANY, re.DOTALL)
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)
        if command.strip()
    ]
    assert len(commands) >= 16
    done = shell.run("set -euxo pipefail\n" + "\n".join(commands))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    made = json.loads((shell.folder / "batch.json").read_text())
    assert (made["received"], made["accepted"], [each["line"] for each in made["errors"]]) == (3, 2, [3])
    for name in ("problems-out.jsonl", "problems-out.csv", "preferences.jsonl", "prm800k.jsonl"):
        assert (shell.folder / name).exists(), name


def test_every_document_that_is_linked_exists() -> None:
    for page in [ROOT / "README.md", ROOT / "models" / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(linked), f"{page.name}: {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """List the anchors of a page's headings, as GitHub derives them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_dependency_has_its_line_of_reason() -> None:
    listed = (ROOT / "docs" / "dependencies.md").read_text()
    for name in re.findall(r'"([a-z0-9-]+)(?:\[[a-z]+\])?>=', (ROOT / "pyproject.toml").read_text()):
        if name not in ("setuptools",):
            assert re.search(rf"\b{name}\b", listed), name

"""`trim policies`: from the files of an artefact to a default version, and from there to files again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shared.policies.artefact import BadArtefact
from stack.artefact_files import write_artefact
from stack.client import ApiRefused
from tests.integration.cli.conftest import Beat, Trim
from tests.unit.policies.pomdp_models import artefact_of, make_model, released_model

pytestmark = pytest.mark.servers


def test_a_version_is_imported_listed_shown_exported_made_default_and_retired(trim: Trim, tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write_artefact(*artefact_of(released_model()).encode(), first)
    write_artefact(*artefact_of(make_model()).encode(), second)
    with pytest.raises(ApiRefused, match="no default version"):
        trim("policies", "show", "pomdp")

    assert [trim("policies", "import", str(each)) for each in (first, second, first)] == [
        "pomdp@1\n", "pomdp@2\n", "pomdp@1\n",
    ]  # fmt: skip
    assert "@1" in next(line for line in trim("policies", "list").splitlines() if line.startswith("pomdp"))
    shown = dict(line.split(maxsplit=1) for line in trim("policies", "show", "pomdp").splitlines())
    assert shown["version"].strip() == "pomdp@1"
    assert shown["models.prm"].strip() == "prm@1"
    newest = json.loads(trim("policies", "versions", "pomdp", "-n", "1", "--json"))
    assert [each["version"] for each in newest] == [2]

    exported = Path(trim("policies", "export", "pomdp", "--into", str(tmp_path / "out")).strip())
    assert exported == tmp_path / "out" / "pomdp@1.json"
    for suffix in (".json", ".npz"):
        assert exported.with_suffix(suffix).read_bytes() == first.with_suffix(suffix).read_bytes()
    assert sorted(each.name for each in exported.parent.iterdir()) == ["pomdp@1.json", "pomdp@1.npz"]

    trim("policies", "default", "pomdp@2")
    trim("policies", "retire", "pomdp@1")
    states = {line.split()[0]: line.split()[1] for line in trim("policies", "versions", "pomdp").splitlines()[1:]}
    assert states == {"pomdp@2": "default", "pomdp@1": "retired"}
    with pytest.raises(ApiRefused, match="retired"):
        trim("policies", "default", "pomdp@1")
    with pytest.raises(ApiRefused, match="no version 9"):
        trim("policies", "export", "pomdp@9", "--into", str(tmp_path))


def test_a_policy_without_versions_is_shown_with_its_parameters(trim: Trim) -> None:
    shown = dict(line.split(maxsplit=1) for line in trim("policies", "show", "threshold").splitlines())
    assert shown["parameters.threshold"].strip() == "Escalate below this PRM score. Default: 0.5."
    assert json.loads(trim("policies", "show", "threshold", "--json"))["name"] == "threshold"


def test_a_name_without_a_version_means_the_default_for_the_running_models(
    trim: Trim, beat: Beat, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    write_artefact(*(artefact := artefact_of(make_model(), prm="prm@2")).encode(), other)
    assert trim("policies", "import", str(other)) == "pomdp@3\n"
    with pytest.raises(ApiRefused, match="no prm worker has reported its model"):
        trim("policies", "export", "pomdp", "--into", str(tmp_path))
    for prm, version in (("prm@2", "pomdp@3"), ("prm@1", "pomdp@2")):
        beat(replace(artefact.models, prm=prm))
        assert trim("policies", "export", "pomdp", "--into", str(tmp_path)) == f"{tmp_path / version}.json\n"


def test_a_damaged_artefact_is_refused_before_it_is_sent(trim: Trim, tmp_path: Path) -> None:
    card = tmp_path / "damaged.json"
    write_artefact(*artefact_of(make_model(), last=None).encode(), card)
    with pytest.raises(BadArtefact, match="no array 'last'"):
        trim("policies", "import", str(card))

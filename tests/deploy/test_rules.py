"""The manifests carry the rules of docker/prometheus, all of them and nothing else."""

from __future__ import annotations

import runpy

from tests.deploy.manifests import DEPLOY, OVERLAYS, find, parse

SCRIPT = runpy.run_path(str(DEPLOY / "alert_rules.py"))


def test_the_manifest_is_what_make_rules_writes() -> None:
    assert SCRIPT["MANIFEST"].read_text() == SCRIPT["render"](), "run make rules"


def test_the_manifest_has_every_group_of_the_files_and_is_part_of_every_overlay() -> None:
    groups = [group for path in sorted(SCRIPT["RULES"].glob("*.yml")) for group in parse(path.read_text())[0]["groups"]]
    assert len(groups) > 1
    for target in OVERLAYS:
        assert find(target, "PrometheusRule", "trim")["spec"]["groups"] == groups

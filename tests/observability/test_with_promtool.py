"""Prometheus' own tool reads the configuration, runs the tests of the alerts and parses the queries of dashboards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.observability.described import ROOT, alerts, queries

CASES = sorted(Path(__file__).parent.glob("*.test.yml"))


@pytest.fixture(scope="session")
def promtool() -> str:
    """Path of promtool."""
    installed = Path(sys.executable).with_name("promtool")
    if found := shutil.which("promtool") or (installed.exists() and str(installed)):
        return found
    reason = f"promtool is missing; Debian's package prometheus has it, and {installed} is a place for it"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(*arguments: str | Path) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_its_rules_are_valid(promtool: str) -> None:
    run(promtool, "check", "config", ROOT / "docker" / "prometheus" / "prometheus.yml")


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.name.removesuffix(".test.yml"))
def test_alerts_fire_when_they_should_and_not_just_below(promtool: str, cases: Path) -> None:
    run(promtool, "test", "rules", cases)


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    fired = {
        check["alertname"]
        for path in CASES
        for case in yaml.safe_load(path.read_text())["tests"]
        for check in case["alert_rule_test"]
        if check.get("exp_alerts")
    }
    assert fired == set(alerts())


def test_every_query_of_a_dashboard_parses(promtool: str, tmp_path: Path) -> None:
    # As rules, because promtool checks no bare expression. Grafana replaces the interval.
    rules = [{"record": "query", "expr": query.replace("$__rate_interval", "1m")} for _, query in queries()]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    run(promtool, "check", "rules", "--lint=none", path)

"""Copies the rules of docker/prometheus into the manifests: `python deploy/alert_rules.py`.

Prometheus reads files of groups, and its operator reads objects that hold groups. Kustomize cannot turn one into
the other.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "docker" / "prometheus" / "rules"
MANIFEST = ROOT / "deploy" / "components" / "monitoring" / "rules.yaml"

HEAD = """\
# The rules of docker/prometheus/rules; `make rules` writes this file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: trim
  labels: {app.kubernetes.io/component: shared}
spec:
  groups:
"""


def render() -> str:
    """Return the manifest with the groups of every file, as they are written there."""
    groups = [path.read_text(encoding="utf-8").partition("groups:\n")[2] for path in sorted(RULES.glob("*.yml"))]
    return HEAD + textwrap.indent("\n".join(groups), "  ")


if __name__ == "__main__":
    MANIFEST.write_text(render(), encoding="utf-8")

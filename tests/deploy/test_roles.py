"""The manifests agree with the code: settings, commands, ports, probes, and the time that a pod gets to stop."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import PurePosixPath

import pytest

from services.api.server import STOP_TIMEOUT_S
from shared.domain.options import Options
from shared.settings import Settings
from shared.store.database import STATEMENT_TIMEOUT_S
from shared.version import VERSION
from shared.worker.command_worker import CONDITIONS as WORKER_CONDITIONS
from tests.deploy.manifests import (
    COMPONENT,
    JOBS,
    OVERLAYS,
    ROLES,
    ROOT,
    WORKERS,
    Object,
    container,
    environment,
    find,
    of_kind,
    pod,
    selects,
    workloads,
)

ROLE = pytest.mark.parametrize(("target", "role"), [(target, role) for target in OVERLAYS for role in ROLES])
POD = pytest.mark.parametrize(
    ("target", "name"),
    [*((target, f"trim-{role}") for target in OVERLAYS for role in ROLES), *((job, f"trim-{job}") for job in JOBS)],
)

COMMANDS = {
    "api": ["services.api"],
    "orchestrator": ["services.orchestrator"],
    "small": ["services.generator", "small"],
    "prm": ["services.prm"],
    "large": ["services.generator", "large"],
    "migrate": ["migrations", "upgrade"],
    "policies": ["stack.policies"],
}
IMAGES = {"api": "trim-api", **dict.fromkeys(("orchestrator", *JOBS), "trim-orchestrator")}
ENGINES = {"trim-worker": {"embedded", "openai"}, "trim-worker-vllm": {"vllm"}}

STEP_TIMEOUT_S = next(field.default for field in dataclasses.fields(Options) if field.name == "step_timeout_s")

DEFAULT_DEADLINE_S = 600
"""Kubernetes' progressDeadlineSeconds."""


def workload(target: str, name: str) -> Object:
    [found] = [each for each in workloads(target) if each["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("target", OVERLAYS)
def test_an_overlay_has_one_deployment_for_each_role(target: str) -> None:
    assert {each["metadata"]["name"] for each in of_kind(target, "Deployment")} == {f"trim-{role}" for role in ROLES}


@POD
def test_a_pod_runs_a_module_that_exists_in_the_image_that_has_it(target: str, name: str) -> None:
    role, runs = name.removeprefix("trim-"), container(workload(target, name))
    assert runs["command"] == ["python", "-m", *COMMANDS[role]]
    assert importlib.util.find_spec(COMMANDS[role][0])
    image, _, tag = PurePosixPath(runs["image"]).name.partition(":")
    assert tag == VERSION
    if role in WORKERS:
        assert environment(target, workload(target, name))["TRIM_ENGINE"] in ENGINES[image]
    else:
        assert image == IMAGES[role]


@POD
def test_a_pod_starts_with_settings_that_the_code_accepts(
    target: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {f"TRIM_{each.upper()}" for each in Settings.model_fields}
    mounts = {each["name"]: each["mountPath"] for each in container(workload(target, name))["volumeMounts"]}
    files = {
        f"{mounts[volume['name']]}/{item['path']}"
        for volume in pod(workload(target, name))["volumes"]
        for item in volume.get("secret", {}).get("items", ())
    }
    for variable, value in environment(target, workload(target, name)).items():
        if variable.startswith("TRIM_") and variable.endswith("_FILE"):
            assert variable.removesuffix("_FILE") in known
            assert value in files
            files.discard(value)
        elif variable.startswith("TRIM_"):
            assert variable in known
            monkeypatch.setenv(variable, value)
    assert files == set(), "no setting reads these files"
    Settings()


@ROLE
def test_the_settings_name_what_happens_while_a_role_is_away_and_have_the_defaults(target: str, role: str) -> None:
    variables = environment(target, find(target, "Deployment", f"trim-{role}"))
    for field in ("when_prm_away", "when_large_away", "when_small_away", "away_patience_s", "stall_s", "stretch_s"):
        default = Settings.model_fields[field].default
        assert type(default)(variables[f"TRIM_{field.upper()}"]) == default


@ROLE
def test_what_a_role_serves_is_what_its_probes_and_monitors_ask(target: str, role: str) -> None:
    runs = container(find(target, "Deployment", f"trim-{role}"))
    variables = environment(target, find(target, "Deployment", f"trim-{role}"))
    ports = {each["name"]: each["containerPort"] for each in runs["ports"]}
    assert ports["metrics"] == int(variables["TRIM_METRICS_PORT"]) == 9464
    assert variables["TRIM_METRICS_HOST"] == "0.0.0.0"
    assert runs["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "metrics"}
    assert runs["livenessProbe"]["httpGet"] == {"path": "/live", "port": "metrics"}
    # A restart helps no role that waits for a server, so the start is over once what it loads itself is there.
    loads = role in WORKERS and variables["TRIM_ENGINE"] != "openai"
    assert runs["startupProbe"]["httpGet"] == {"path": "/ready/engine" if loads else "/live", "port": "metrics"}
    assert not loads or "engine" in WORKER_CONDITIONS
    if role == "api":
        assert ports["http"] == Settings.model_fields["api_port"].default
        [port] = find(target, "Service", "trim-api")["spec"]["ports"]
        assert port["targetPort"] == "http"


@ROLE
def test_a_pod_has_time_to_finish_before_it_is_killed(target: str, role: str) -> None:
    deployment = find(target, "Deployment", f"trim-{role}")
    grace_s = pod(deployment)["terminationGracePeriodSeconds"]
    if role in WORKERS:
        stop_grace_s = float(environment(target, deployment)["TRIM_STOP_GRACE_S"])
        assert grace_s >= stop_grace_s + 20
        assert stop_grace_s > STEP_TIMEOUT_S
    elif role == "api":
        sleep_s = container(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert grace_s >= sleep_s + STOP_TIMEOUT_S + 10
    else:
        assert grace_s >= STATEMENT_TIMEOUT_S + 20


@ROLE
def test_a_process_that_is_busy_for_a_minute_is_not_restarted(target: str, role: str) -> None:
    runs = container(find(target, "Deployment", f"trim-{role}"))
    probe, on_gpu = runs["livenessProbe"], "nvidia.com/gpu" in runs["resources"]["limits"]
    # What a restart costs: a second, or the weights of a large model again.
    assert probe["periodSeconds"] * probe["failureThreshold"] == (300 if on_gpu else 60)
    assert probe["timeoutSeconds"] >= 3


@ROLE
def test_a_rollout_waits_as_long_as_the_start_may_take(target: str, role: str) -> None:
    deployment = find(target, "Deployment", f"trim-{role}")
    probe = container(deployment)["startupProbe"]
    start_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert deployment["spec"].get("progressDeadlineSeconds", DEFAULT_DEADLINE_S) > start_s
    if container(deployment)["resources"]["limits"].get("nvidia.com/gpu"):
        assert start_s >= (45 if role == "large" else 30) * 60


@POD
def test_a_pod_is_restricted(target: str, name: str) -> None:
    spec, runs = pod(workload(target, name)), container(workload(target, name))
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] == name
    assert find(target, "ServiceAccount", name)["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert runs["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert runs["resources"]["requests"].keys() >= {"cpu", "memory"}
    assert "memory" in runs["resources"]["limits"]


@POD
def test_no_service_becomes_a_setting(target: str, name: str) -> None:
    """For a Service trim-api, Kubernetes sets TRIM_API_PORT=tcp://..., which the api would take for its port."""
    assert pod(workload(target, name))["enableServiceLinks"] is False


@ROLE
def test_a_role_is_selected_by_its_own_deployment_and_disruption_budget_alone(target: str, role: str) -> None:
    deployment = find(target, "Deployment", f"trim-{role}")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels[COMPONENT] == deployment["metadata"]["labels"][COMPONENT] == role
    for kind in ("Deployment", "PodDisruptionBudget"):
        selecting = [each for each in of_kind(target, kind) if selects(each["spec"]["selector"], labels)]
        assert [each["metadata"]["name"] for each in selecting] == [f"trim-{role}"]
    # A budget of available pods would block the drain of a node for ever while there is one replica.
    budget = find(target, "PodDisruptionBudget", f"trim-{role}")["spec"]
    assert budget["maxUnavailable"] == 1
    # So would, by default, pods that are not ready, such as all workers while the broker is away.
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@ROLE
def test_a_role_is_monitored_under_its_own_name(target: str, role: str) -> None:
    labels = find(target, "Deployment", f"trim-{role}")["spec"]["template"]["metadata"]["labels"]
    [monitor] = [each for each in of_kind(target, "PodMonitor") if selects(each["spec"]["selector"], labels)]
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")
    assert labels[monitor["spec"]["jobLabel"]] == role


@ROLE
def test_a_role_spreads_over_nodes_and_zones(target: str, role: str) -> None:
    deployment = find(target, "Deployment", f"trim-{role}")
    labels = deployment["spec"]["template"]["metadata"]["labels"] | {"pod-template-hash": "set by Kubernetes"}
    constraints = pod(deployment)["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in constraints] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for each in constraints:
        assert selects(each["labelSelector"], labels)
        assert set(each["matchLabelKeys"]) <= labels.keys()


@ROLE
def test_a_volume_or_configuration_that_a_pod_names_exists(target: str, role: str) -> None:
    deployment = find(target, "Deployment", f"trim-{role}")
    mounted = {each["name"] for each in container(deployment)["volumeMounts"]}
    assert mounted == {each["name"] for each in pod(deployment)["volumes"]}
    for volume in pod(deployment)["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            find(target, "PersistentVolumeClaim", claim["claimName"])
    assert len(mounted) == len(container(deployment)["volumeMounts"])


@ROLE
def test_a_worker_on_a_gpu_fits_its_node_and_keeps_its_weights_and_no_other_pod_takes_a_gpu(
    target: str, role: str
) -> None:
    deployment = find(target, "Deployment", f"trim-{role}")
    has_vllm = container(deployment)["image"].rpartition("/")[2].startswith("trim-worker-vllm:")
    gpus = container(deployment)["resources"]["limits"].get("nvidia.com/gpu", 0)
    assert (
        (gpus > 0) == has_vllm == bool(pod(deployment).get("nodeSelector")) == bool(pod(deployment).get("tolerations"))
    )
    surge = deployment["spec"]["strategy"]["rollingUpdate"]
    assert surge == ({"maxSurge": 0, "maxUnavailable": 1} if has_vllm else {"maxSurge": 1, "maxUnavailable": 0})
    if has_vllm:
        assert pod(deployment)["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        assert taint in pod(deployment)["tolerations"]
        [home] = re.findall(r"HOME=(/home/\S+) ", (ROOT / "docker" / "Dockerfile").read_text())
        volumes = {each["mountPath"]: each["name"] for each in container(deployment)["volumeMounts"]}
        [models] = [each for each in pod(deployment)["volumes"] if each["name"] == volumes[home]]
        claim = find(target, "PersistentVolumeClaim", models["persistentVolumeClaim"]["claimName"])
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        [memory] = [each["emptyDir"] for each in pod(deployment)["volumes"] if each["name"] == volumes["/dev/shm"]]
        assert memory["medium"] == "Memory"


@POD
def test_a_pod_can_write_below_tmp_alone_besides_its_models(target: str, name: str) -> None:
    volumes = {each["name"]: each for each in pod(workload(target, name))["volumes"]}
    writable = {
        each["mountPath"]
        for each in container(workload(target, name))["volumeMounts"]
        if "secret" not in volumes[each["name"]]
    }
    assert "/tmp" in writable
    assert writable <= {"/tmp", "/home/trim", "/dev/shm"}


def test_the_models_on_gpus_are_those_of_compose() -> None:
    compose = (ROOT / "compose.gpu.yaml").read_text()
    for role in WORKERS:
        variables = environment("overlays/gpu", find("overlays/gpu", "Deployment", f"trim-{role}"))
        [model] = re.findall(rf"TRIM_{role.upper()}_MODEL: \$\{{\w+:-(.+)\}}$", compose, re.MULTILINE)
        assert variables[f"TRIM_{role.upper()}_MODEL"] == model

"""Who may reach whom, in network policies and in the broker's permissions; and what scales on which queue."""

from __future__ import annotations

import re
from collections.abc import Iterator

import annotated_types
import pytest

from services.api.schemas.submissions import ProblemRequest
from services.api.waiting import LONGEST_WAIT_S
from shared.bus.permissions import permissions_of
from shared.bus.topology import EVENTS, QUEUES, Topology
from shared.domain.roles import WorkerRole
from shared.machine.requesting import MAX_STEP_WAIT_S
from shared.settings import Settings
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
    render,
    selects,
    workloads,
)

PREFIX = Settings.model_fields["queue_prefix"].default
TOPOLOGY = Topology(PREFIX)
QUEUE_OF = {"orchestrator": EVENTS, **{role.value: role for role in WorkerRole}}

overlays = pytest.mark.parametrize("target", OVERLAYS)


def labels_of(workload: Object) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def roles_with(target: str, variable: str) -> set[str]:
    """Find the roles that have a setting, the migration included."""
    return {
        labels_of(each)[COMPONENT]
        for each in [*workloads(target), *(each for job in JOBS for each in workloads(job))]
        if variable in {one["name"] for one in container(each)["env"]}
    }


def policies(target: str, workload: Object, direction: str) -> Iterator[Object]:
    """List the rules of network policies for a pod."""
    for each in of_kind(target, "NetworkPolicy"):
        if selects(each["spec"]["podSelector"], labels_of(workload)) and direction in each["spec"]["policyTypes"]:
            yield from each["spec"].get(direction.lower(), ())


def ports(rule: Object) -> set[object]:
    return {each["port"] for each in rule["ports"]}


def namespaces(rule: Object, direction: str) -> set[str]:
    return {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for peer in rule[direction]
        if "namespaceSelector" in peer
    }


def upper_bound(constraints: list[object]) -> float:
    [bound] = [each.le for each in constraints if isinstance(each, annotated_types.Le)]
    return float(str(bound))


# The network


@overlays
def test_all_traffic_of_every_pod_is_denied_first(target: str) -> None:
    [deny] = [each for each in of_kind(target, "NetworkPolicy") if each["metadata"]["name"] == "trim-default-deny"]
    assert deny["spec"].keys() == {"podSelector", "policyTypes"}
    assert set(deny["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    for each in [*workloads(target), *(each for job in JOBS for each in workloads(job))]:
        assert selects(deny["spec"]["podSelector"], labels_of(each))


@overlays
@pytest.mark.parametrize(
    ("variable", "port", "server"),
    [("TRIM_DATABASE_URL_FILE", 5432, "examples/postgres"), ("TRIM_BROKER_URL_FILE", 5672, "examples/rabbitmq")],
)
def test_exactly_the_roles_that_use_a_server_may_connect_to_it(
    target: str, variable: str, port: int, server: str
) -> None:
    everyone = [*workloads(target), *(each for job in JOBS for each in workloads(job))]
    leaving = {
        labels_of(each)[COMPONENT]
        for each in everyone
        if any(port in ports(rule) for rule in policies(target, each, "Egress"))
    }
    [guard] = of_kind(server, "NetworkPolicy")
    entering = {
        labels_of(each)[COMPONENT]
        for each in everyone
        for rule in guard["spec"]["ingress"]
        for peer in rule["from"]
        if "ports" in rule and port in ports(rule) and "namespaceSelector" not in peer
        if selects(peer["podSelector"], labels_of(each))
    }
    assert leaving == entering == roles_with(target, variable)


@overlays
def test_the_policies_open_the_ports_that_pods_serve(target: str) -> None:
    for role in ROLES:
        deployment = find(target, "Deployment", f"trim-{role}")
        opened = set().union(*(ports(rule) for rule in policies(target, deployment, "Ingress")))
        assert opened == {each["containerPort"] for each in container(deployment)["ports"]}


@overlays
def test_every_pod_finds_names_and_every_role_is_scraped_and_sends_traces(target: str) -> None:
    for each in [*workloads(target), *(each for job in JOBS for each in workloads(job))]:
        [names] = [rule for rule in policies(target, each, "Egress") if 53 in ports(rule)]
        assert namespaces(names, "to") == {"kube-system"}
        assert {(each["protocol"], each["port"]) for each in names["ports"]} == {("UDP", 53), ("TCP", 53)}
    receiver = re.findall(r"http://host:(\d+)", Settings.model_fields["otlp_url"].description or "")
    for role in ROLES:
        deployment = find(target, "Deployment", f"trim-{role}")
        [scrape] = [rule for rule in policies(target, deployment, "Ingress") if 9464 in ports(rule)]
        [traces] = [rule for rule in policies(target, deployment, "Egress") if {*map(str, ports(rule))} == {*receiver}]
        assert namespaces(scrape, "from") == namespaces(traces, "to") == {"monitoring"}


@overlays
def test_only_workers_leave_the_cluster_and_only_if_they_need_models_or_model_servers(target: str) -> None:
    outside = {
        role
        for role in ROLES
        for rule in policies(target, find(target, "Deployment", f"trim-{role}"), "Egress")
        if any("ipBlock" in peer for peer in rule["to"])
    }
    needed = {
        role
        for role in WORKERS
        if environment(target, find(target, "Deployment", f"trim-{role}"))["TRIM_ENGINE"] != "embedded"
    }
    assert outside == needed


# Scaling


@overlays
@pytest.mark.parametrize("role", QUEUE_OF)
def test_a_role_scales_on_all_messages_of_the_queue_it_consumes(target: str, role: str) -> None:
    scaled = find(target, "ScaledObject", f"trim-{role}")["spec"]
    [trigger] = scaled["triggers"]
    deployment = find(target, "Deployment", scaled["scaleTargetRef"]["name"])
    assert labels_of(deployment)[COMPONENT] == role
    assert "replicas" not in deployment["spec"], "an apply would undo what the autoscaler has chosen"
    assert trigger["metadata"]["queueName"] == TOPOLOGY.queue(QUEUE_OF[role]).name
    assert (trigger["metadata"]["protocol"], trigger["metadata"]["excludeUnacknowledged"]) == ("http", "false")
    assert (trigger["type"], trigger["metadata"]["mode"]) == ("rabbitmq", "QueueLength")
    find(target, "TriggerAuthentication", trigger["authenticationRef"]["name"])
    assert 1 <= scaled["minReplicaCount"] <= scaled["maxReplicaCount"]


@overlays
def test_workers_are_added_by_what_one_holds_and_never_beyond_the_window(target: str) -> None:
    for role in WORKERS:
        variables = environment(target, find(target, "Deployment", f"trim-{role}"))
        scaled = find(target, "ScaledObject", f"trim-{role}")["spec"]
        held = int(variables.get("TRIM_CONCURRENCY", Settings.model_fields["concurrency"].default))
        assert int(scaled["triggers"][0]["metadata"]["value"]) == held
        window = int(variables.get("TRIM_WINDOW", Settings.model_fields["window"].default))
        assert held * scaled["maxReplicaCount"] <= window, "the last workers would find nothing to do"


@overlays
@pytest.mark.parametrize("role", QUEUE_OF)
def test_scaling_down_lets_a_pod_drain_before_it_takes_the_next(target: str, role: str) -> None:
    behavior = find(target, "ScaledObject", f"trim-{role}")["spec"]["advanced"]["horizontalPodAutoscalerConfig"][
        "behavior"
    ]
    [policy] = behavior["scaleDown"]["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    grace_s = pod(find(target, "Deployment", f"trim-{role}"))["terminationGracePeriodSeconds"]
    assert policy["periodSeconds"] >= grace_s
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] > grace_s


# RabbitMQ


def test_each_user_has_the_permissions_of_its_role_and_the_autoscaler_none() -> None:
    for role, queue in QUEUE_OF.items():
        granted = find("examples/rabbitmq", "Permission", f"trim-{role}")["spec"]["permissions"]
        assert granted == permissions_of(queue, PREFIX)._asdict()
    granted = find("examples/rabbitmq", "Permission", "trim-keda")["spec"]["permissions"]
    assert granted == dict.fromkeys(("configure", "write", "read"), "^$")


def test_users_permissions_and_limits_belong_to_the_cluster_and_virtual_host_that_roles_use() -> None:
    target = "examples/rabbitmq"
    [cluster] = of_kind(target, "RabbitmqCluster")
    [vhost] = of_kind(target, "Vhost")
    users = {each["metadata"]["name"] for each in of_kind(target, "User")}
    assert users == {f"trim-{role}" for role in (*QUEUE_OF, "keda")}
    for each in of_kind(target, "Vhost", "User", "Permission", "Policy"):
        assert each["spec"]["rabbitmqClusterReference"] == {"name": cluster["metadata"]["name"]}
        if each["kind"] in ("Permission", "Policy"):
            assert each["spec"]["vhost"] == vhost["spec"]["name"] == "trim"
    assert {each["spec"]["userReference"]["name"] for each in of_kind(target, "Permission")} == users
    for each in OVERLAYS:
        for scaled in of_kind(each, "ScaledObject"):
            assert scaled["spec"]["triggers"][0]["metadata"]["vhostName"] == vhost["spec"]["name"]


def test_each_queue_has_the_limit_of_its_kind() -> None:
    patterns = {
        each["spec"]["definition"]["overflow"]: re.compile(each["spec"]["pattern"])
        for each in of_kind("examples/rabbitmq", "Policy")
    }
    for role in QUEUES:
        for queue, overflow in ((TOPOLOGY.queue(role), "reject-publish"), (TOPOLOGY.dead_letters(role), "drop-head")):
            assert [kind for kind, pattern in patterns.items() if pattern.search(queue.name)] == [overflow]
            # At-least-once dead-lettering needs it; a policy that differs would be ignored.
            assert (queue.queue_arguments or {}).get("x-overflow", "drop-head") == overflow


def test_rabbitmq_waits_for_the_longest_command() -> None:
    [cluster] = of_kind("examples/rabbitmq", "RabbitmqCluster")
    of_compose = (ROOT / "docker" / "rabbitmq" / "rabbitmq.conf").read_text()
    stretch_s, step_s = (
        upper_bound(each.metadata)
        for each in (Settings.model_fields["stretch_s"], ProblemRequest.model_fields["step_timeout_s"])
    )
    assert step_s <= MAX_STEP_WAIT_S
    for config in (cluster["spec"]["rabbitmq"]["additionalConfig"], of_compose):
        [timeout_ms] = re.findall(r"^consumer_timeout = (\d+)$", config, re.MULTILINE)
        assert int(timeout_ms) > 1000 * (stretch_s + MAX_STEP_WAIT_S)


# Postgres and the proxy


def test_the_backup_and_the_restore_name_the_archive_and_the_cluster() -> None:
    [store] = of_kind("examples/postgres", "ObjectStore")
    cluster = find("examples/postgres", "Cluster", "trim-postgres")["spec"]
    [plugin] = cluster["plugins"]
    assert plugin["isWALArchiver"] is True
    assert plugin["parameters"]["barmanObjectName"] == store["metadata"]["name"]
    [backup] = of_kind("examples/postgres", "ScheduledBackup")
    assert backup["spec"]["cluster"]["name"] == "trim-postgres"
    restored = dict(find("examples/postgres-restore", "Cluster", "trim-postgres-restored")["spec"])
    [source] = restored.pop("externalClusters")
    assert source["name"] == restored["bootstrap"]["recovery"]["source"]
    expected = {"barmanObjectName": store["metadata"]["name"], "serverName": "trim-postgres"}
    assert source["plugin"]["parameters"] == expected
    assert {**restored, "bootstrap": None} == {**cluster, "bootstrap": None}, "the restored cluster is as large"


def test_every_cluster_of_postgres_is_backed_up_monitored_and_reached_by_its_operator() -> None:
    [monitor] = of_kind("examples/postgres", "PodMonitor")
    [guard] = of_kind("examples/postgres", "NetworkPolicy")
    for target in ("examples/postgres", "examples/postgres-restore"):
        [cluster] = of_kind(target, "Cluster")
        [backup] = of_kind(target, "ScheduledBackup")
        assert backup["spec"]["cluster"]["name"] == cluster["metadata"]["name"]
        assert backup["spec"]["immediate"], "an archive without a base backup restores nothing"
        labels = {"cnpg.io/cluster": cluster["metadata"]["name"]}
        assert selects(monitor["spec"]["selector"], labels)
        assert selects(guard["spec"]["podSelector"], labels)
    [operator] = [rule for rule in guard["spec"]["ingress"] if namespaces(rule, "from") == {"cnpg-system"}]
    assert ports(operator) == {5432, 8000}


def test_the_proxy_waits_longer_than_a_request_may_and_takes_what_the_api_takes() -> None:
    [ingress] = render("examples/ingress")
    annotations = {name.removeprefix("nginx.org/"): value for name, value in ingress["metadata"]["annotations"].items()}
    assert int(annotations["proxy-read-timeout"].removesuffix("s")) > LONGEST_WAIT_S
    body_bytes = int(annotations["client-max-body-size"].removesuffix("m")) * 2**20
    assert body_bytes >= Settings.model_fields["max_body_bytes"].default
    service = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    [port] = find("overlays/cpu", "Service", service["name"])["spec"]["ports"]
    assert port["name"] == service["port"]["name"]

"""What the chart allows is what is needed: the operator's account against the audit log, tenants by asking."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support import idle_group
from support.chart import NAMESPACE, Helm, Object, find, of_kind, pod_templates
from support.chart_cluster import (
    APPLIED,
    RBAC,
    ROLE_BINDINGS,
    SERVICE_ACCOUNTS,
    TENANT,
    started,
    write_account,
)
from support.idle_group import create_group, own, split
from support.world import World, eventually
from weft.api.resources import (
    DEVICE_QUOTAS,
    FABRICS,
    GPU_POOLS,
    GROUP,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    MEMORY_POOLS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    STORAGE_POOLS,
    ResourceType,
)
from weft.cluster import ClusterError
from weft_dev import PYTHONPATH, ROOT, tools
from weft_dev.controlplane import AUDIT_LOG, ControlPlane
from weft_dev.kube import APPLY_PATCH, Kube

DEFINITIONS = ResourceType(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False
)
SERVICES = ResourceType("", "v1", "services", "Service", True)
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:weft"
ASKS, ASKS_NOT = "asks", "asks-not"
"""ServiceAccounts of the tenant's namespace with the cluster's role edit there; the chart lets the first one plan."""
OWNERS_ARE_CHECKED = "only where the admission plugin OwnerReferencesPermissionEnforcement is on"
NAME_TAKEN = "read when a creation finds the name taken by an object that no watch has shown yet"
NOT_USED_HERE = {
    ("update", "inferencegroups/finalizers"): OWNERS_ARE_CHECKED,
    ("get", "pods"): NAME_TAKEN,
    ("get", "logicalnodes"): NAME_TAKEN,
    ("get", "deviceattachments"): NAME_TAKEN,
    (
        "patch",
        "storagepools",
    ): "a finalizer while devices are claimed, as of the other pools; this rack has no drives",
    (
        "create",
        "pods/eviction",
    ): "where devices, hosts or pools with pods are drained; nothing is in maintenance here",
    ("patch", "events"): "counts an event that is told again; nothing is told twice here",
    ("update", "deviceattachments/status"): "where a device fails or a call is not answered",
    ("create", "leases"): "the chart makes the Lease; the operator makes it again when somebody deleted it",
}
"""What is granted although this test does not reach it, and why."""

Pair = tuple[str, str]


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tools.provide(["helm"])["helm"], Path(tmp_path_factory.mktemp("helm")))


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> list[Object]:
    asks = {"kind": "ServiceAccount", "name": ASKS, "namespace": TENANT}
    values = {"emulator": {"enabled": True}, "crds": {"keep": False}, "tenantRoles": {"plan": [asks]}}
    return helm.render(values)


@pytest.fixture(scope="module")
def plane(
    tool_paths: dict[str, Path], rendered: list[Object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """A control plane of its own, for its audit log, with what the chart says about permissions."""
    with started(tool_paths, rendered, tmp_path_factory.mktemp("chart"), audit=True) as plane:
        yield plane


@pytest.fixture
def account(plane: ControlPlane, tmp_path: Path) -> Path:
    """A kubeconfig of the operator's account."""
    kubeconfig = tmp_path / "account.kubeconfig"
    write_account(plane, "weft", kubeconfig)
    return kubeconfig


@pytest.fixture
def world(plane: ControlPlane) -> Iterator[World]:
    world = World(plane, TENANT, hosts=6, gpus=8, memories=2)
    world.start_emulator()
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def address() -> str:
    """An address of this machine that the API server takes for a pod's: loopback it refuses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Of a datagram socket this sends nothing: it chooses the way.
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


@pytest.fixture
def askers(plane: ControlPlane) -> None:
    kube = plane.client()
    for name in (ASKS, ASKS_NOT):
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        kube.create(SERVICE_ACCOUNTS, account, TENANT)
        subject = {"kind": "ServiceAccount", "name": name, "namespace": TENANT}
        kube.create(ROLE_BINDINGS, binding(name, "edit", subject), TENANT)


@pytest.fixture
def idle_engines(plane: ControlPlane) -> Iterator[Object]:
    with idle_group.idle_engines(plane.client(), TENANT) as settings:
        yield settings


def binding(name: str, role: str, subject: Object) -> Object:
    """One of the cluster's own roles for a subject."""
    head: Object = {"apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", "metadata": {"name": name}}
    return {
        **head,
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }


def requests_of_the_account(plane: ControlPlane) -> list[Object]:
    lines = (plane.directory / AUDIT_LOG).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry for entry in entries if entry["user"]["username"] == ACCOUNT]


def resource_of(entry: Object) -> str:
    reference = entry.get("objectRef", {})
    return "/".join(filter(None, (reference.get("resource"), reference.get("subresource"))))


def granted(rendered: list[Object]) -> set[Pair]:
    """(verb, resource) of every rule that the operator's account has."""
    roles = [find(rendered, "ClusterRole", "weft"), find(rendered, "Role", "weft")]
    return {
        (verb, resource)
        for role in roles
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def serve_as_pod(plane: ControlPlane, rendered: list[Object], address: str, port: int) -> None:
    """Let the operator that listens there be the pod behind the chart's Service.

    The API server passes a question on to an endpoint that is a pod of the Service's namespace, and to no other.
    """
    kube = plane.client()
    template = dict(pod_templates(rendered))["Deployment/weft"]
    # Endpoints are pods of Nodes that exist; this one's kubelet is the test.
    kube.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "beside"}})
    spec = {**template["spec"], "nodeName": "beside"}
    for container in spec["containers"]:
        container["ports"] = [{"name": "http", "containerPort": port}]
    labels = template["metadata"]["labels"]
    kube.apply(SERVICES, find(rendered, "Service", "weft"))
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "weft-1", "labels": labels}, "spec": spec}
    kube.create(PODS, pod, NAMESPACE)
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], **ready}
    kube.patch(PODS, "weft-1", {"status": status}, NAMESPACE, subresource="status")


def plan(world: World, account: str) -> subprocess.CompletedProcess[str]:
    """`weft plan` of one request, its default way, as a ServiceAccount of the tenant."""
    kubeconfig = world.directory / f"{account}.kubeconfig"
    write_account(world.plane, account, kubeconfig, TENANT)
    wanted = own(LOGICAL_NODES, "next", {"accelerators": [{"name": "main", "count": 1}]})
    command = [sys.executable, "-m", "weft.cli.main", "plan", "-f", "-", "-n", TENANT, "-o", "json"]
    return subprocess.run(
        [*command, "--kubeconfig", kubeconfig],
        input=yaml.safe_dump(wanted),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def ask_what_if(world: World) -> None:
    """Ask through the API server: as a tenant that the chart lets ask, and as one that it does not."""
    # The endpoint is made by a controller, some time after the pod.
    slices = ResourceType("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True)
    eventually(
        lambda: any(each["endpoints"] for each in world.kube.list(slices, NAMESPACE)), what="an endpoint"
    )
    answered = plan(world, ASKS)
    assert answered.returncode == 0, answered.stderr
    (node,) = json.loads(answered.stdout)["nodes"]
    assert (node["name"], node["outcome"] in ("binds", "waits")) == ("next", True)
    refused = plan(world, ASKS_NOT)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "tenantRoles.plan" in refused.stderr, refused.stderr


def applied(plane: ControlPlane, rendered: list[Object], **query: str) -> dict[Pair, Object]:
    """What the API server has after a Git controller applied the chart's objects, by kind and name.

    Those that run something are left out: the operator's account may not write them, as `granted` shows.
    """
    return {
        (resource.kind, body["metadata"]["name"]): plane.client().request(
            "PATCH",
            resource.path(body["metadata"].get("namespace", ""), body["metadata"]["name"]),
            body,
            APPLY_PATCH,
            query={"fieldManager": "a-git-controller", **query},
        )
        for resource in (*APPLIED, DEFINITIONS)
        for body in of_kind(rendered, resource.kind)
    }


def test_the_operator_needs_every_permission_it_has_and_no_other(
    plane: ControlPlane,
    rendered: list[Object],
    account: Path,
    world: World,
    idle_engines: Object,
    address: str,
    askers: None,
) -> None:
    nodes = f"{world.name}-sled-0..{len(world.hosts) - 1}"
    kubelet = (
        sys.executable,
        "-m",
        "weft_dev.kubelet",
        f"--kubeconfig={plane.kubeconfig}",
        f"--nodes={nodes}",
    )
    world.create()
    world.processes.start("kubelet", kubelet, environment={"PYTHONPATH": PYTHONPATH, "PATH": "/usr/bin:/bin"})
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}}
    world.kube.create(SECRETS, {**secret, "stringData": {"username": "a"}}, NAMESPACE)
    guarded = {"endpoint": "https://127.0.0.1:9", "credentialsSecretRef": {"name": "login"}}
    world.kube.create(FABRICS, own(FABRICS, f"{world.name}-guarded", guarded))
    storage = {"fabricRef": {"name": world.name}, "selector": {"matchAttributes": {"type": "NVMe"}}}
    world.kube.create(STORAGE_POOLS, own(STORAGE_POOLS, world.name, storage))

    quota = {"limits": [{"kind": "GPUPool", "name": world.name, "count": 6}]}
    world.kube.create(DEVICE_QUOTAS, own(DEVICE_QUOTAS, "devices", quota), TENANT)

    before = applied(plane, rendered, force="true")
    operator = world.start_operator(
        kubeconfig=account, namespace=NAMESPACE, lease_seconds=2, health_host=address, **idle_engines
    )
    serve_as_pod(plane, rendered, address, world.ports[operator])
    world.logical_node("trainer")
    eventually(lambda: world.is_bound("trainer"), 60, what="trainer is bound")
    ask_what_if(world)
    create_group(world.kube, TENANT)
    eventually(lambda: split(world.kube, TENANT) == {"prefill": 2, "decode": 2}, 60, what="the group serves")
    # In this order the budget admits the second change as a move only: the replica keeps its pod.
    for role, replicas in (("decode", 3), ("prefill", 1)):
        world.kube.patch(INFERENCE_ROLES, role, {"spec": {"replicas": replicas}}, TENANT)
    eventually(
        lambda: split(world.kube, TENANT) == {"prefill": 1, "decode": 3},
        60,
        what="a replica changed its role",
    )
    world.kube.delete(INFERENCE_GROUPS, "llama", TENANT)
    world.delete("trainer")
    eventually(lambda: not world.kube.list(LOGICAL_NODES) and not world.claims(), 90, what="all is released")
    world.kube.delete(DEVICE_QUOTAS, "devices", TENANT)
    for resource in (GPU_POOLS, MEMORY_POOLS, STORAGE_POOLS):
        world.kube.delete(resource, world.name)
    for name in (f"{world.name}-guarded", world.name):
        world.kube.delete(FABRICS, name)
    eventually(lambda: not world.kube.list(FABRICS), 60, what="the fabrics are gone")
    os.kill(world.pids[operator], signal.SIGTERM)
    eventually(lambda: world.processes.exit_code(operator) == 0, 20, what="the operator ends")

    # A Git controller that looks again finds nothing to change, and nobody who contests what it owns.
    after = applied(plane, rendered)
    versions = [
        {key: each["metadata"]["resourceVersion"] for key, each in of.items()} for of in (before, after)
    ]
    assert dict(versions[0].items() ^ versions[1].items()).keys() == {("Lease", "weft-operator")}
    lease = after["Lease", "weft-operator"]
    assert lease["spec"]["leaseTransitions"] >= 0
    assert lease["metadata"]["labels"] == before["Lease", "weft-operator"]["metadata"]["labels"]

    requests = requests_of_the_account(plane)
    assert len(requests) > 100
    refused = [
        (entry["verb"], entry["requestURI"]) for entry in requests if entry["responseStatus"]["code"] == 403
    ]
    assert refused == []
    used = {(entry["verb"], resource_of(entry)) for entry in requests if entry.get("objectRef")}
    assert used <= granted(rendered)
    assert sorted(granted(rendered) - used - NOT_USED_HERE.keys()) == []
    assert sorted(NOT_USED_HERE.keys() & used) == []


def may(kube: Kube, user: str, namespace: str, verb: str, resource: str) -> bool:
    """Whether the user may, as the API server's authorizer says."""
    plural, _, sub = resource.partition("/")
    attributes = {
        "namespace": namespace,
        "verb": verb,
        "group": GROUP,
        "resource": plural,
        "subresource": sub,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }
    answer = kube.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    return bool(answer["status"]["allowed"])


@pytest.fixture
def tenants(plane: ControlPlane) -> Kube:
    """Users who have the cluster's own roles in the tenant's namespace, by the role's name."""
    kube = plane.client()
    for role in ("view", "edit", "admin"):
        user = {"apiGroup": RBAC, "kind": "User", "name": f"user-{role}"}
        kube.apply(ROLE_BINDINGS, binding(f"user-{role}", role, user), TENANT)
    return kube


def test_tenants_edit_their_requests_in_their_namespace_and_nothing_of_the_administrators(
    tenants: Kube,
) -> None:
    requests = ("logicalnodes", "inferencegroups", "inferenceroles")
    hardware = ("fabrics", "gpupools", "memorypools", "storagepools", "deviceattachments", "devicequotas")
    changes = ("create", "update", "patch", "delete")
    # The roles are aggregated by a controller, some time after the chart's were made.
    eventually(lambda: may(tenants, "user-view", TENANT, "list", "logicalnodes"), what="view is aggregated")
    eventually(
        lambda: may(tenants, "user-admin", TENANT, "delete", "logicalnodes"), what="admin is aggregated"
    )
    for user, writes in (("user-view", False), ("user-edit", True), ("user-admin", True)):
        for resource in requests:
            assert may(tenants, user, TENANT, "get", f"{resource}/status")
            assert not may(tenants, user, TENANT, "update", f"{resource}/status"), (user, resource)
        for resource in (*requests, "engineprofiles"):
            for verb in ("get", "list", "watch"):
                assert may(tenants, user, TENANT, verb, resource), (user, verb, resource)
            for verb in changes:
                assert may(tenants, user, TENANT, verb, resource) is writes, (user, verb, resource)
                assert not may(tenants, user, "default", verb, resource), (user, verb, resource)
        assert may(tenants, user, TENANT, "patch", "inferenceroles/scale") is writes
        for resource in hardware:
            for verb in changes:
                assert not may(tenants, user, TENANT, verb, resource), (user, verb, resource)
        for verb in ("get", "list", "watch"):
            assert may(tenants, user, TENANT, verb, "devicequotas"), (user, verb)


def test_who_is_made_a_tenant_as_the_page_says_lists_what_is_theirs_without_a_refusal(
    tenants: Kube, plane: ControlPlane, tool_paths: dict[str, Path]
) -> None:
    (made,) = re.findall(
        r"`kubectl (-n team-a create rolebinding [^`]*)`", (ROOT / "docs/howto.md").read_text()
    )

    def kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(tool_paths["kubectl"]), f"--kubeconfig={plane.kubeconfig}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    # The role is aggregated some time after the chart's were made.
    eventually(lambda: may(tenants, "user-edit", TENANT, "list", "logicalnodes"), what="edit is aggregated")
    bound = kubectl(*made.split())
    assert bound.returncode == 0, bound.stderr

    tenant = ("--as=somebody", "--as-group=team-a", "-n", TENANT)
    theirs = kubectl("get", "weft", *tenant)
    assert (theirs.returncode, "Forbidden" in theirs.stderr) == (0, False), theirs.stderr
    assert "Forbidden" in kubectl("get", "weft-all", *tenant).stderr


def test_a_namespace_with_the_restricted_standard_takes_every_pod_of_the_chart(
    plane: ControlPlane, rendered: list[Object]
) -> None:
    kube = plane.client()
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.patch(NAMESPACES, NAMESPACE, {"metadata": {"labels": labels}})
    templates = dict(pod_templates(rendered))
    assert sorted(templates) == [
        "Deployment/weft",
        "Deployment/weft-emulator",
        "Job/weft-uninstall-check",
        "Pod/weft-test",
    ]
    account = SERVICE_ACCOUNTS.path(NAMESPACE, "default")
    eventually(lambda: kube.raw("GET", account)[0] == 200, what="the default account is there")
    for template in templates.values():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try"}, "spec": template["spec"]}
        kube.create(PODS, pod, NAMESPACE, dry_run=True)
        security = {**template["spec"]["securityContext"], "runAsNonRoot": False}
        pod["spec"] = {**template["spec"], "securityContext": security}
        with pytest.raises(ClusterError, match="violates PodSecurity"):
            kube.create(PODS, pod, NAMESPACE, dry_run=True)

"""The CRDs against a real API server: what it takes, what it refuses and with which words, what it stores."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.api import resources
from weft.api.crd import DEFINITIONS, manifests
from weft.api.resources import ResourceType
from weft_dev.kube import Kube, KubeError, object_path

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("[0-9]*.yaml"))
STORED = sorted((ROOT / "tests" / "data" / "stored").glob("*/*.yaml"))
KINDS = {definition.resource.kind: definition for definition in DEFINITIONS}
CORE = {"Namespace": resources.NAMESPACES, "ConfigMap": resources.CONFIG_MAPS}

Object = dict[str, Any]
Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


def resource_of(body: Object) -> ResourceType:
    definition = KINDS.get(body["kind"])
    return definition.resource if definition else CORE[body["kind"]]


def placed(body: Object, namespace: str) -> Object:
    """The object in this namespace, if its kind has namespaces."""
    body = copy.deepcopy(body)
    if resource_of(body).namespaced:
        body["metadata"]["namespace"] = namespace
    return body


class Made:
    """Creates objects and removes them after the test, finalizers or not."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._made: list[Object] = []

    def create(self, body: Object) -> Object:
        self._made.append(body)
        return self._kube.create(resource_of(body), body)

    def remove_all(self) -> None:
        for body in reversed(self._made):
            resource, meta = resource_of(body), body["metadata"]
            name, namespace = meta["name"], meta.get("namespace", "")
            if self._kube.get(resource, name, namespace) is None:
                continue
            self._kube.patch(resource, name, {"metadata": {"finalizers": None}}, namespace)
            self._kube.delete(resource, name, namespace, grace_seconds=0)


@pytest.fixture
def made(kube: Kube) -> Iterator[Made]:
    made = Made(kube)
    yield made
    made.remove_all()


def test_the_examples_apply_in_the_order_of_their_names(kubectl: Kubectl) -> None:
    files = [argument for path in EXAMPLES for argument in ("-f", str(path))]
    try:
        kubectl("apply", *files)
        again = kubectl("apply", *files).stdout
    finally:
        kubectl("delete", "--ignore-not-found", "--wait=false", *reversed_pairs(files))

    objects = [body for path in EXAMPLES for body in yaml.safe_load_all(path.read_text())]
    assert {body["kind"] for body in objects} > KINDS.keys() - {"DeviceAttachment"}
    assert len(again.splitlines()) == len(objects)
    assert [line for line in again.splitlines() if not line.endswith(" unchanged")] == []


def reversed_pairs(files: list[str]) -> list[str]:
    """`-f a -f b` as `-f b -f a`: what was made last goes first."""
    return [argument for index in range(len(files) - 2, -1, -2) for argument in files[index : index + 2]]


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_stored_object_survives_a_round_trip(path: Path, kube: Kube, made: Made, namespace: str) -> None:
    written = placed(yaml.safe_load(path.read_text()), namespace)
    resource = resource_of(written)
    created = made.create(written)
    kube.replace(resource, created | {"status": written["status"]}, subresource="status")

    stored = kube.get(resource, written["metadata"]["name"], written["metadata"].get("namespace", ""))
    assert stored is not None
    del stored["metadata"]["managedFields"]

    assert KINDS[written["kind"]].model.model_validate(stored).dump() == stored
    assert (stored["spec"], stored["status"]) == (written["spec"], written["status"])


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_status_is_written_through_its_subresource_only(
    path: Path, kube: Kube, made: Made, namespace: str
) -> None:
    written = placed(yaml.safe_load(path.read_text()), namespace)
    created = made.create(written)
    replaced = kube.replace(resource_of(written), created | {"status": written["status"]})

    assert "status" not in created
    assert "status" not in replaced
    assert replaced["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]


def test_scale_reads_the_status_and_writes_the_spec(kube: Kube, made: Made, namespace: str) -> None:
    role = placed(
        yaml.safe_load((ROOT / "tests/data/stored/v0.1.0/inferencerole.yaml").read_text()), namespace
    )
    created = made.create(role)
    kube.replace(resources.INFERENCE_ROLES, created | {"status": role["status"]}, subresource="status")
    name = role["metadata"]["name"]
    path = object_path(resources.INFERENCE_ROLES, namespace, name) + "/scale"

    scale = kube.request("GET", path)
    kube.patch(resources.INFERENCE_ROLES, name, {"spec": {"replicas": 7}}, namespace, subresource="scale")
    with pytest.raises(KubeError, match="replicas must lie between minReplicas and maxReplicas"):
        kube.patch(
            resources.INFERENCE_ROLES, name, {"spec": {"replicas": 33}}, namespace, subresource="scale"
        )

    assert scale["spec"] == {"replicas": 4}
    assert scale["status"] == {"replicas": 4, "selector": "weft.dev/role=stored-decode"}
    changed = kube.get(resources.INFERENCE_ROLES, name, namespace)
    assert changed is not None
    assert changed["spec"]["replicas"] == 7


def test_explain_describes_what_a_field_is_for(kubectl: Kubectl) -> None:
    explained = " ".join(kubectl("explain", "inferencegroup.spec.objectives").stdout.split())

    assert "DESCRIPTION: What users of the model may expect." in explained
    assert "attainmentPermille <integer> Share of requests that must meet both, in thousandths." in explained


def test_get_shows_all_of_weft_by_its_category(
    kube: Kube, made: Made, kubectl: Kubectl, namespace: str
) -> None:
    node = placed(yaml.safe_load((ROOT / "tests/data/stored/v0.1.0/logicalnode.yaml").read_text()), namespace)
    created = made.create(node)
    kube.replace(resources.LOGICAL_NODES, created | {"status": node["status"]}, subresource="status")

    shown = kubectl("get", "weft", "--namespace", namespace).stdout.splitlines()
    header = next(line for line in shown if "BOUND" in line and "NODE" in line)
    row = next(line for line in shown if "stored-trainer" in line)

    assert header.split()[1:] == ["BOUND", "NODE", "REASON", "READY", "AGE"]
    assert row.split()[1:5] == ["True", "worker-3", "Verified", "False"]


def test_the_api_server_finds_no_fault_with_the_schemas(kube: Kube) -> None:
    for text in manifests().values():
        name = yaml.safe_load(text)["metadata"]["name"]
        crd = kube.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        faults = [
            each
            for each in crd["status"]["conditions"]
            if each["type"] in ("NonStructuralSchema", "Terminating")
        ]
        assert faults == []


GROUP = {"name": "llama"}
TEMPLATE = {"template": {"spec": {"containers": [{"name": "engine", "image": "engine:1"}]}}}
GOOD: dict[str, Object] = {
    "Fabric": {"endpoint": "https://fm.example:8443", "hosts": [{"host": "sled-0", "nodeName": "worker-0"}]},
    "GPUPool": {"fabricRef": {"name": "rack"}},
    "MemoryPool": {"fabricRef": {"name": "rack"}},
    "StoragePool": {"fabricRef": {"name": "rack"}},
    "DeviceAttachment": {
        "fabric": "rack",
        "device": "gpu-1",
        "pool": "h200",
        "host": "sled-0",
        "operation": "op-1",
        "epoch": 1,
        "request": "main",
        "claimSize": 1,
        "claimRef": {"namespace": "team-a", "name": "trainer", "uid": "u-1"},
    },
    "LogicalNode": {
        "accelerators": [{"name": "main", "count": 4}],
        "memory": [{"name": "kv", "size": "2Ti"}],
        "storage": [{"name": "cache", "size": "8Ti"}],
    },
    "InferenceGroup": {
        "objectives": {"timeToFirstTokenMilliseconds": 500, "interTokenLatencyMilliseconds": 25},
        "metrics": {"modelName": "meta-llama/Llama-3.3-70B-Instruct"},
        "budget": {"accelerators": 8},
    },
    "InferenceRole": {
        "groupRef": GROUP,
        "stage": "Decode",
        "replicas": 2,
        "minReplicas": 1,
        "maxReplicas": 4,
        "profileRef": {"name": "speed"},
        "workload": TEMPLATE,
    },
}
"""The least that each kind takes."""

NAMES = {"DeviceAttachment": "rack.gpu-1"}


def good(kind: str, namespace: str) -> Object:
    body = {
        "apiVersion": "weft.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": NAMES.get(kind, "mistake")},
        "spec": copy.deepcopy(GOOD[kind]),
    }
    return placed(body, namespace)


REMOVED = object()


@dataclass(frozen=True)
class Mistake:
    """A good object of this kind with these fields set, and what the API server must say about it."""

    kind: str
    fields: dict[str, Any]
    answer: str
    before: dict[str, Any] = field(default_factory=dict)
    """For changes of an object: fields that it has been created with beyond the good ones."""


def with_fields(body: Object, fields: dict[str, Any]) -> Object:
    body = copy.deepcopy(body)
    for path, value in fields.items():
        *parents, last = path.split(".")
        at: Any = body
        for name in parents:
            at = at[int(name)] if name.isdigit() else at.setdefault(name, {})
        if value is REMOVED:
            del at[last]
        else:
            at[last] = value
    return body


ON_CREATE = {
    "an endpoint without a scheme": Mistake(
        "Fabric",
        {"spec.endpoint": "fm.example:8443"},
        "endpoint must be an absolute URL that starts with https://",
    ),
    "an endpoint of another protocol": Mistake(
        "Fabric",
        {"spec.endpoint": "ftp://fm.example"},
        "endpoint must be an absolute URL that starts with https://",
    ),
    "a password in the endpoint": Mistake(
        "Fabric",
        {"spec.endpoint": "https://a:b@fm.example"},
        "put them in a Secret and name it in credentialsSecretRef",
    ),
    "a query in the endpoint": Mistake(
        "Fabric", {"spec.endpoint": "https://fm.example?token=1"}, "must not contain a query or fragment"
    ),
    "plain http to another machine": Mistake(
        "Fabric", {"spec.endpoint": "http://fm.example:8080"}, "http:// only on a loopback address"
    ),
    "plain http to a name that begins like loopback": Mistake(
        "Fabric", {"spec.endpoint": "http://127.0.0.1.evil.example"}, "http:// only on a loopback address"
    ),
    "no endpoint": Mistake("Fabric", {"spec.endpoint": REMOVED}, "spec.endpoint: Required value"),
    "an unknown mode": Mistake("Fabric", {"spec.mode": "Control"}, 'supported values: "Observe", "Manage"'),
    "one Node at two hosts": Mistake(
        "Fabric",
        {"spec.hosts": [{"host": "sled-0", "nodeName": "w-0"}, {"host": "sled-1", "nodeName": "w-0"}]},
        "a nodeName stands at two hosts",
    ),
    "one host twice": Mistake(
        "Fabric",
        {"spec.hosts": [{"host": "sled-0", "nodeName": "w-0"}, {"host": "sled-0", "nodeName": "w-1"}]},
        "spec.hosts[1]: Duplicate value",
    ),
    "no request allowed at one time": Mistake(
        "Fabric",
        {"spec.limits.maxInFlight": 0},
        "spec.limits.maxInFlight in body should be greater than or equal to 1",
    ),
    "a Fabric with a dot in its name": Mistake(
        "Fabric", {"metadata.name": "rack.a"}, "metadata.name of a Fabric must have no dots"
    ),
    "a price with a currency": Mistake(
        "GPUPool", {"spec.cost.perDeviceHour": "2.10 EUR"}, "must be an amount without a currency"
    ),
    "a price without quotes": Mistake(
        "GPUPool", {"spec.cost.perDeviceHour": 2.1}, "spec.cost.perDeviceHour in body must be of type string"
    ),
    "an idle device that draws more than a busy one": Mistake(
        "GPUPool", {"spec.power": {"idleWatts": 700, "busyWatts": 75}}, "idleWatts must not exceed busyWatts"
    ),
    "a minimum that no device has": Mistake(
        "GPUPool",
        {"spec.selector.minimum": {"cores": "64"}},
        "minimum knows memory (of an accelerator) and size",
    ),
    "a selector's operator without values": Mistake(
        "GPUPool",
        {"spec.allowedNamespaces": {"matchExpressions": [{"key": "team", "operator": "In"}]}},
        "operator In and NotIn need values",
    ),
    "a quota of bytes as a number of devices": Mistake(
        "MemoryPool",
        {"spec.quota.perNamespace": "8 TB"},
        "must be a number of bytes above zero as a Kubernetes quantity",
    ),
    "a misspelt tier": Mistake("StoragePool", {"spec.tier": "edge"}, 'supported values: "Core", "Edge"'),
    "a claim under another device's name": Mistake(
        "DeviceAttachment", {"metadata.name": "other.gpu-1"}, "metadata.name must be <fabric>.<device>"
    ),
    "a logical node without devices": Mistake(
        "LogicalNode",
        {"spec.accelerators": REMOVED, "spec.memory": REMOVED, "spec.storage": []},
        "ask for at least one device: add an entry to accelerators, memory or storage",
    ),
    "one name for accelerators and memory": Mistake(
        "LogicalNode", {"spec.memory.0.name": "main"}, "rename the entry in memory"
    ),
    "one name for accelerators and storage": Mistake(
        "LogicalNode", {"spec.storage.0.name": "main"}, "rename the entry in storage"
    ),
    "one name for memory and storage": Mistake(
        "LogicalNode", {"spec.storage.0.name": "kv"}, "rename the entry in storage"
    ),
    "one name for two entries of accelerators": Mistake(
        "LogicalNode",
        {"spec.accelerators": [{"name": "a", "count": 1}, {"name": "a", "count": 2}]},
        "spec.accelerators[1]: Duplicate value",
    ),
    "no accelerators at all": Mistake(
        "LogicalNode",
        {"spec.accelerators.0.count": 0},
        "spec.accelerators[0].count in body should be greater than or equal to 1",
    ),
    "more accelerators than any host has": Mistake(
        "LogicalNode",
        {"spec.accelerators.0.count": 65},
        "spec.accelerators[0].count in body should be less than or equal to 64",
    ),
    "a size in words": Mistake("LogicalNode", {"spec.memory.0.size": "2 TiB"}, "for example 512Gi or 2Ti"),
    "a size of nothing": Mistake(
        "LogicalNode", {"spec.memory.0.size": "0Gi"}, "must be a number of bytes above zero"
    ),
    "a host's resource that is no quantity": Mistake(
        "LogicalNode",
        {"spec.host.requests": {"cpu": "lots"}},
        "must be a Kubernetes quantity, for example 16",
    ),
    "a domain attribute with a dash": Mistake(
        "LogicalNode", {"spec.placement.domain": {"attribute": "nvlink-domain"}}, "for example nvlinkDomain"
    ),
    "too many requests": Mistake(
        "LogicalNode",
        {"spec.memory": [{"name": f"m{i}", "size": "1Gi"} for i in range(9)]},
        "spec.memory: Too many: 9: must have at most 8 items",
    ),
    "an attainment of all requests": Mistake(
        "InferenceGroup",
        {"spec.objectives.attainmentPermille": 1000},
        "spec.objectives.attainmentPermille in body should be less than or equal to 999",
    ),
    "a model's name with a quote": Mistake(
        "InferenceGroup",
        {"spec.metrics.modelName": 'a"} or up{b="'},
        "must be a model's name of letters, digits",
    ),
    "no objectives": Mistake(
        "InferenceGroup", {"spec.objectives": REMOVED}, "spec.objectives: Required value"
    ),
    "an unknown way to flip": Mistake(
        "InferenceGroup",
        {"spec.rebalance.flip": "Magic"},
        'supported values: "None", "Label", "HTTP", "Restart"',
    ),
    "bounds the wrong way round": Mistake(
        "InferenceRole",
        {"spec.minReplicas": 3, "spec.replicas": 3, "spec.maxReplicas": 2},
        "minReplicas must not exceed maxReplicas: lower minReplicas or raise maxReplicas",
    ),
    "replicas out of bounds": Mistake(
        "InferenceRole", {"spec.replicas": 9}, "replicas must lie between minReplicas and maxReplicas"
    ),
    "scaling to zero": Mistake(
        "InferenceRole",
        {"spec.minReplicas": 0},
        "spec.minReplicas in body should be greater than or equal to 1",
    ),
    "a replica on several hosts": Mistake(
        "InferenceRole", {"spec.nodesPerReplica": 2}, "nodesPerReplica must be 1"
    ),
    "neither template nor target": Mistake(
        "InferenceRole",
        {"spec.workload": {}},
        "set exactly one of workload.template and workload.scaleTargetRef",
    ),
    "both template and target": Mistake(
        "InferenceRole",
        {
            "spec.workload.scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "spec.workload.acceleratorsPerReplica": 1,
        },
        "set exactly one of workload.template and workload.scaleTargetRef",
    ),
    "a target without its accelerators": Mistake(
        "InferenceRole",
        {"spec.workload": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}},
        "scaleTargetRef needs acceleratorsPerReplica",
    ),
    "a template without a pod's spec": Mistake(
        "InferenceRole",
        {"spec.workload.template": {"metadata": {}}},
        "spec.workload.template.spec: Required value",
    ),
    "a node without devices": Mistake("InferenceRole", {"spec.node": {}}, "ask for at least one device"),
    "a role whose name is no label": Mistake(
        "InferenceRole",
        {"metadata.name": "decode.h200"},
        "metadata.name of an InferenceRole must have no dots",
    ),
    "an unknown stage": Mistake(
        "InferenceRole", {"spec.stage": "decode"}, 'supported values: "Prefill", "Decode"'
    ),
}

_ANEW = "create a new LogicalNode with what you need"

ON_CHANGE = {
    "another fabric for a pool": Mistake(
        "GPUPool", {"spec.fabricRef.name": "other"}, "delete the pool and create one with another fabricRef"
    ),
    "another device for a claim": Mistake(
        "DeviceAttachment", {"spec.device": "gpu-2"}, "a claim is deleted and made anew, never rewritten"
    ),
    "more accelerators": Mistake("LogicalNode", {"spec.accelerators.0.count": 5}, _ANEW),
    "an accelerator's selector added": Mistake(
        "LogicalNode", {"spec.accelerators.0.selector": {"matchAttributes": {"model": "H200"}}}, _ANEW
    ),
    "storage removed": Mistake(
        "LogicalNode", {"spec.storage": REMOVED}, f"storage cannot be changed: {_ANEW}"
    ),
    "more memory": Mistake(
        "LogicalNode", {"spec.memory.0.size": "4Ti"}, f"memory cannot be changed: {_ANEW}"
    ),
    "another host": Mistake(
        "LogicalNode", {"spec.host.requests": {"cpu": "1"}}, f"host cannot be changed: {_ANEW}"
    ),
    "another placement": Mistake(
        "LogicalNode", {"spec.placement.objective": "Energy"}, f"placement cannot be changed: {_ANEW}"
    ),
    "a priority added": Mistake(
        "LogicalNode", {"spec.priorityClassName": "high"}, f"priorityClassName cannot be changed: {_ANEW}"
    ),
    "another group for a role": Mistake(
        "InferenceRole",
        {"spec.groupRef.name": "other"},
        "create a role in the other group and delete this one",
    ),
    "another stage for a role": Mistake(
        "InferenceRole", {"spec.stage": "Prefill"}, "create a role of the other stage and delete this one"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_object_is_taken(kind: str, kube: Kube, namespace: str) -> None:
    body = good(kind, namespace)

    created = kube.create(resource_of(body), body, dry_run=True)

    assert KINDS[kind].model.model_validate(created).dump()["spec"] == created["spec"]


@pytest.mark.parametrize("mistake", ON_CREATE.values(), ids=ON_CREATE.keys())
def test_a_mistake_is_answered_with_what_to_change(mistake: Mistake, kube: Kube, namespace: str) -> None:
    body = with_fields(good(mistake.kind, namespace), mistake.fields)

    with pytest.raises(KubeError) as refused:
        kube.create(resource_of(body), body, dry_run=True)

    assert refused.value.status == 422
    assert mistake.answer in refused.value.message


@pytest.mark.parametrize("mistake", ON_CHANGE.values(), ids=ON_CHANGE.keys())
def test_what_cannot_change_says_what_to_do_instead(
    mistake: Mistake, kube: Kube, made: Made, namespace: str
) -> None:
    created = made.create(good(mistake.kind, namespace))

    with pytest.raises(KubeError) as refused:
        kube.replace(resource_of(created), with_fields(created, mistake.fields))

    assert refused.value.status == 422
    assert mistake.answer in refused.value.message


def test_the_life_of_a_logical_node_can_be_changed(kube: Kube, made: Made, namespace: str) -> None:
    created = made.create(good("LogicalNode", namespace))

    changed = kube.replace(resources.LOGICAL_NODES, with_fields(created, {"spec.ttlSecondsAfterBound": 60}))

    assert changed["spec"]["ttlSecondsAfterBound"] == 60


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://fm.example",
        "https://[fd00::1]:8443/base",
        "http://localhost:8080",
        "http://127.8.9.1",
        "http://[::1]:1",
    ],
)
def test_endpoints_that_are_safe_are_taken(endpoint: str, kube: Kube, namespace: str) -> None:
    body = with_fields(good("Fabric", namespace), {"spec.endpoint": endpoint})

    assert kube.create(resources.FABRICS, body, dry_run=True)["spec"]["endpoint"] == endpoint


def test_a_fabric_has_room_for_as_many_hosts_as_it_says(kube: Kube, namespace: str) -> None:
    hosts = [{"host": f"sled-{i}", "nodeName": f"worker-{i}.{'x' * 60}.example"} for i in range(256)]
    body = with_fields(good("Fabric", namespace), {"spec.hosts": hosts})

    assert len(kube.create(resources.FABRICS, body, dry_run=True)["spec"]["hosts"]) == 256

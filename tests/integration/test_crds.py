"""The CRDs against a real API server: what it takes, what it refuses and with which words, what it stores."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.api import resources
from weft.api.crd import DEFINITIONS, manifests
from weft.api.resources import ResourceType
from weft.cluster import ClusterError
from weft_dev.kube import Kube
from weft_playground.case import Split
from weft_playground.demo.manifests import Examples, group_objects, with_logical_nodes, with_plain_pods

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("[0-9]*.yaml"))
STORED = sorted((ROOT / "tests" / "data" / "stored").glob("*/*.yaml"))
WITH_STATUS = [path for path in STORED if "status" in yaml.safe_load(path.read_text())]
MISTAKES = yaml.safe_load((ROOT / "tests" / "data" / "mistakes.yaml").read_text())
KINDS = {definition.resource.kind: definition for definition in DEFINITIONS}
CORE = {"Namespace": resources.NAMESPACES}

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
        kubectl("apply", "--dry-run=server", "-f", str(ROOT / "docs" / "examples" / "maintenance"))
    finally:
        kubectl("delete", "--ignore-not-found", "--wait=false", *reversed_pairs(files))

    objects = [body for path in EXAMPLES for body in yaml.safe_load_all(path.read_text())]
    assert {body["kind"] for body in objects} > KINDS.keys() - {"DeviceAttachment"}
    assert len(again.splitlines()) == len(objects)
    assert [line for line in again.splitlines() if not line.endswith(" unchanged")] == []


@pytest.mark.parametrize("examples", [with_logical_nodes(), with_plain_pods()], ids=["nodes", "pods"])
def test_the_demos_groups_are_taken_as_they_are(examples: Examples, kube: Kube, namespace: str) -> None:
    for body in group_objects(examples.group, namespace, "Auto", Split(4, 6)):
        if body["kind"] in KINDS:
            created = kube.create(resource_of(body), body, dry_run=True)
            assert KINDS[body["kind"]].model.model_validate(created).dump()["spec"] == created["spec"]


def reversed_pairs(files: list[str]) -> list[str]:
    """`-f a -f b` as `-f b -f a`: what was made last goes first."""
    return [argument for index in range(len(files) - 2, -1, -2) for argument in files[index : index + 2]]


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_stored_object_survives_a_round_trip(path: Path, kube: Kube, made: Made, namespace: str) -> None:
    written = placed(yaml.safe_load(path.read_text()), namespace)
    resource = resource_of(written)
    created = made.create(written)
    if "status" in written:
        kube.replace(resource, created | {"status": written["status"]}, subresource="status")

    stored = kube.get(resource, written["metadata"]["name"], written["metadata"].get("namespace", ""))
    assert stored is not None
    del stored["metadata"]["managedFields"]

    assert KINDS[written["kind"]].model.model_validate(stored).dump() == stored
    assert (stored["spec"], stored.get("status")) == (written["spec"], written.get("status"))


@pytest.mark.parametrize("path", WITH_STATUS, ids=lambda path: f"{path.parent.name}/{path.stem}")
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
        yaml.safe_load((ROOT / "tests/data/stored/v0.3.0/inferencerole.yaml").read_text()), namespace
    )
    created = made.create(role)
    kube.replace(resources.INFERENCE_ROLES, created | {"status": role["status"]}, subresource="status")
    name = role["metadata"]["name"]
    path = resources.INFERENCE_ROLES.path(namespace, name, "scale")

    scale = kube.request("GET", path)
    kube.patch(resources.INFERENCE_ROLES, name, {"spec": {"replicas": 7}}, namespace, subresource="scale")
    with pytest.raises(ClusterError, match="replicas must lie between minReplicas and maxReplicas"):
        kube.patch(
            resources.INFERENCE_ROLES, name, {"spec": {"replicas": 33}}, namespace, subresource="scale"
        )

    assert scale["spec"] == {"replicas": 4}
    assert scale["status"] == {
        "replicas": 4,
        "selector": "weft.dev/role=stored-decode,weft.dev/worker-index=0",
    }
    changed = kube.get(resources.INFERENCE_ROLES, name, namespace)
    assert changed is not None
    assert changed["spec"]["replicas"] == 7


def test_explain_describes_what_a_field_is_for(kubectl: Kubectl) -> None:
    explained = " ".join(kubectl("explain", "inferencegroup.spec.objectives").stdout.split())

    assert "DESCRIPTION: What users of the model may expect." in explained
    assert (
        "attainmentPermille <integer> Share of requests that must meet the objectives, in thousandths."
        in explained
    )


def test_get_shows_all_of_weft_by_its_category(
    kube: Kube, made: Made, kubectl: Kubectl, namespace: str
) -> None:
    node = placed(yaml.safe_load((ROOT / "tests/data/stored/v0.3.0/logicalnode.yaml").read_text()), namespace)
    created = made.create(node)
    kube.replace(resources.LOGICAL_NODES, created | {"status": node["status"]}, subresource="status")

    shown = kubectl("get", "weft", "--namespace", namespace).stdout.splitlines()
    header = next(line for line in shown if "BOUND" in line and "NODE" in line)
    row = next(line for line in shown if "stored-trainer" in line)

    assert header.split()[1:] == ["BOUND", "NODE", "DEVICES", "PLACE", "REASON", "READY", "AGE"]
    assert row.split()[1:6] == ["True", "worker-3", "2", "Verified", "False"]
    everything = kubectl("get", "weft-all", "--namespace", namespace)
    assert "logicalnode.weft.dev/stored-trainer" in everything.stdout


@pytest.mark.parametrize(
    ("kind", "header", "row"),
    [
        (
            "inferencegroup",
            "NAME MODEL SPLIT DESIRED SERVING READY REASON OBJECTIVES MET BALANCE METRICS SUSPENDED AGE",
            "meta-llama/Llama-3.3-70B-Instruct decode 5, prefill 3 8 5 True Serving Unknown Moving Fresh",
        ),
        (
            "inferencerole",
            "NAME GROUP STAGE DESIRED REPLICAS UPDATED SERVING READY REASON AGE",
            "stored-llama-70b Decode 5 4 2 3 False Starting",
        ),
    ],
)
def test_get_answers_how_many_which_split_which_model_and_why_not(
    kind: str, header: str, row: str, kube: Kube, made: Made, kubectl: Kubectl, namespace: str
) -> None:
    body = placed(yaml.safe_load((ROOT / f"tests/data/stored/v0.3.0/{kind}.yaml").read_text()), namespace)
    created = made.create(body)
    kube.replace(resource_of(body), created | {"status": body["status"]}, subresource="status")

    first, second = kubectl("get", kind, "--namespace", namespace).stdout.splitlines()

    assert first.split() == header.split()
    assert second.split()[1:-1] == row.split()


def test_a_role_with_its_fewest_replicas_alone_can_be_scaled(kube: Kube, made: Made, namespace: str) -> None:
    created = made.create(with_fields(good("InferenceRole", namespace), {"spec.minReplicas": 3}))
    path = resources.INFERENCE_ROLES.path(namespace, "mistake", "scale")

    assert created["spec"]["replicas"] == 1
    assert kube.request("GET", path)["spec"] == {"replicas": 1}
    kube.patch(
        resources.INFERENCE_ROLES, "mistake", {"spec": {"replicas": 4}}, namespace, subresource="scale"
    )
    with pytest.raises(ClusterError, match="replicas must lie between minReplicas and maxReplicas"):
        kube.patch(
            resources.INFERENCE_ROLES, "mistake", {"spec": {"replicas": 2}}, namespace, subresource="scale"
        )


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


NAMES = {"DeviceAttachment": "rack.gpu-1"}


def good(kind: str, namespace: str) -> Object:
    body = {
        "apiVersion": "weft.dev/v1alpha2",
        "kind": kind,
        "metadata": {"name": NAMES.get(kind, "mistake")},
        "spec": copy.deepcopy(MISTAKES["good"][kind]),
    }
    return placed(body, namespace)


def with_fields(body: Object, fields: dict[str, Any]) -> Object:
    """The object with fields, named by their paths, set; None removes one."""
    body = copy.deepcopy(body)
    for path, value in fields.items():
        *parents, last = path.split(".")
        at: Any = body
        for name in parents:
            at = at[int(name)] if name.isdigit() else at.setdefault(name, {})
        if value is None:
            del at[last]
        else:
            at[last] = value
    return body


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_object_is_taken(kind: str, kube: Kube, namespace: str) -> None:
    body = good(kind, namespace)

    created = kube.create(resource_of(body), body, dry_run=True)

    assert KINDS[kind].model.model_validate(created).dump()["spec"] == created["spec"]


@pytest.mark.parametrize("mistake", MISTAKES["on_create"].values(), ids=MISTAKES["on_create"])
def test_a_mistake_is_answered_with_what_to_change(mistake: Object, kube: Kube, namespace: str) -> None:
    body = with_fields(good(mistake["kind"], namespace), mistake["fields"])

    with pytest.raises(ClusterError) as refused:
        kube.create(resource_of(body), body, dry_run=True)

    assert refused.value.status == 422
    assert mistake["answer"] in refused.value.message


@pytest.mark.parametrize("mistake", MISTAKES["on_change"].values(), ids=MISTAKES["on_change"])
def test_what_cannot_change_says_what_to_do_instead(
    mistake: Object, kube: Kube, made: Made, namespace: str
) -> None:
    created = made.create(good(mistake["kind"], namespace))

    with pytest.raises(ClusterError) as refused:
        kube.replace(resource_of(created), with_fields(created, mistake["fields"]))

    assert refused.value.status == 422
    assert mistake["answer"] in refused.value.message


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
    hosts = [{"host": f"sled-{i}", "nodeName": f"worker-{i}.{'x' * 60}.example"} for i in range(1024)]
    body = with_fields(good("Fabric", namespace), {"spec.hosts": hosts})

    assert len(kube.create(resources.FABRICS, body, dry_run=True)["spec"]["hosts"]) == 1024

"""The cluster in memory that unit tests use, held against a real API server: 200 sequences of operations, replayed, and
the words with which each refuses.

Rules (CEL) are taken out of the definitions: the stand-in evaluates none, tests/integration/test_crds.py does.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.connecting import kube_client
from support.memory_cluster import MemoryCluster
from support.operations import NAMESPACE, Operation, sequence
from support.playing import Outcome, play
from support.refusals import BrokenWebhook, Policy, Quota, Rule, pod_security
from weft.api import crd
from weft.api.resources import NAMESPACES, PODS, ResourceType
from weft.cluster import Cluster, ClusterError, NotFoundError, Object
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient
from weft.runtime.cluster import LiveCluster
from weft.runtime.metrics import OperatorMetrics
from weft_dev import controlplane
from weft_dev.controlplane import ControlPlane
from weft_dev.kube import Kube

SEEDS = range(200)
AT_ONCE = 16
SERVICE_ACCOUNTS = ResourceType("", "v1", "serviceaccounts", "ServiceAccount", True)


@pytest.fixture(scope="module")
def plane(tool_paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server without controllers: nobody but the sequences changes anything."""
    definitions = tmp_path_factory.mktemp("crds") / "crds.yaml"
    bodies = [_without_rules(yaml.safe_load(text)) for text in crd.manifests().values()]
    definitions.write_text(yaml.safe_dump_all(bodies))
    with controlplane.start(binaries=tool_paths, controllers=False, scheduler=False) as plane:
        kube = plane.client()
        controlplane.install_crds(kube, [definitions])
        kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        kube.create(SERVICE_ACCOUNTS, account, NAMESPACE)
        yield plane


def _without_rules(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: _without_rules(value) for key, value in schema.items() if key != "x-kubernetes-validations"
        }
    return [_without_rules(item) for item in schema] if isinstance(schema, list) else schema


async def _in_the_real_one(client: KubeClient, operations: list[Operation]) -> list[Outcome]:
    cluster = LiveCluster(client, ObjectCache(), "replay", lambda: True, OperatorMetrics())

    async def read(operation: Operation) -> Object | None:
        try:
            return await client.get(operation.resource, operation.name, operation.namespace)
        except NotFoundError:
            return None

    return await play(operations, cluster, read)


async def _in_memory(operations: list[Operation]) -> list[Outcome]:
    cluster = MemoryCluster(declared=False)

    async def read(operation: Operation) -> Object | None:
        return cluster.objects.get((operation.resource, operation.namespace, operation.name))

    return await play(operations, cluster, read)


async def test_200_sequences_have_the_same_outcomes_in_memory_and_on_a_real_api_server(
    plane: ControlPlane,
) -> None:
    client = await kube_client(plane)
    turns = asyncio.Semaphore(AT_ONCE)
    counts: collections.Counter[str] = collections.Counter()

    async def compare(seed: int) -> list[str]:
        operations = sequence(seed)
        async with turns:
            real = await _in_the_real_one(client, operations)
        memory = await _in_memory(operations)
        for operation, outcome in zip(operations, real, strict=True):
            counts[f"{operation.verb}: {outcome.error or 'done'}"] += 1
        for number, (operation, left, right) in enumerate(zip(operations, real, memory, strict=True)):
            if left != right:
                # What follows a difference differs because of it.
                return [f"seed {seed}, operation {number}: {operation}\n  real:   {left}\n  memory: {right}"]
        return []

    try:
        found = await asyncio.gather(*(compare(seed) for seed in SEEDS))
    finally:
        await client.close()
    differences = [text for texts in found for text in texts]
    if differences:
        pytest.fail(f"{len(differences)} sequences differ:\n" + "\n".join(differences), pytrace=False)
    # The comparison is worth something only while the sequences reach what they are meant to reach.
    for reached in (
        "create: done", "create: InvalidError 400", "create: InvalidError 422", "create: AlreadyExistsError 409",
        "patch: done", "patch: ConflictError 409", "patch: InvalidError 422", "patch: NotFoundError 404",
        "patch status: done", "status: done", "status: ConflictError 409", "status: InvalidError 422",
        "delete: done", "delete: ConflictError 409",
    ):  # fmt: skip
        assert counts[reached] >= 3, (reached, counts)


ADMISSION = "admissionregistration.k8s.io"
QUOTAS = ResourceType("", "v1", "resourcequotas", "ResourceQuota", True)
POLICIES = ResourceType(ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", False)
BINDINGS = ResourceType(
    ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", False
)
WEBHOOKS = ResourceType(
    ADMISSION, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", False
)
PODS_ARE_MADE = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}


def _quota(kube: Kube, namespace: str) -> None:
    body = _body(QUOTAS, "team", {"hard": {"pods": "0"}})
    kube.create(QUOTAS, body, namespace)
    # What the controller would count; there is none here.
    status = {"hard": {"pods": "0"}, "used": {"pods": "0"}}
    kube.patch(QUOTAS, "team", {"status": status}, namespace, subresource="status")


def _pod_security(kube: Kube, namespace: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.patch(NAMESPACES, namespace, {"metadata": {"labels": labels}})


def _policy(kube: Kube, namespace: str) -> None:
    rule = {"expression": "false", "message": "no pods today"}
    spec = {"matchConstraints": {"resourceRules": [PODS_ARE_MADE]}, "validations": [rule]}
    kube.create(POLICIES, _body(POLICIES, "house-rules", spec))
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "policyName": "house-rules",
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": selector},
    }
    kube.create(BINDINGS, _body(BINDINGS, "house-rules", binding))


def _webhook(kube: Kube, namespace: str) -> None:
    body = _body(WEBHOOKS, "checks", {})
    del body["spec"]
    service = {"name": "checks", "namespace": "team", "path": "/admit", "port": 443}
    body["webhooks"] = [
        {
            "name": "checks.team.example",
            "clientConfig": {"service": service},
            "rules": [PODS_ARE_MADE],
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        }
    ]
    kube.create(WEBHOOKS, body)


def _body(resource: ResourceType, name: str, spec: Object) -> Object:
    identity = {"apiVersion": resource.api_version, "kind": resource.kind}
    return {**identity, "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize(
    ("number", "arrange", "rule"),
    [
        (1, _quota, lambda cluster: Quota(cluster.list, PODS, 0)),
        (2, _pod_security, lambda _: pod_security),
        (3, _policy, lambda _: Policy(PODS, lambda _: "no pods today")),
        (4, _webhook, lambda _: BrokenWebhook(PODS)),
    ],
    ids=["quota", "pod-security", "policy", "webhook"],
)
async def test_a_refused_pod_is_refused_in_the_same_words(
    plane: ControlPlane,
    number: int,
    arrange: Callable[[Kube, str], None],
    rule: Callable[[MemoryCluster], Rule],
) -> None:
    namespace, kube = f"refusing-{number}", plane.client()
    kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    kube.create(SERVICE_ACCOUNTS, account, namespace)
    arrange(kube, namespace)
    # Everything else that `restricted` demands is fulfilled.
    secure = {
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    spec = {"containers": [{"name": "engine", "image": "vllm:1", "securityContext": secure}]}
    pod = {"metadata": {"name": "p", "namespace": namespace}, "spec": spec}
    memory = MemoryCluster()
    memory.rules.append(rule(memory))
    wanted = await _refusal(memory, pod)
    client = await kube_client(plane)
    cluster = LiveCluster(client, ObjectCache(), "replay", lambda: True, OperatorMetrics())
    try:
        # A policy or a webhook is in force some moments after it was made.
        for _ in range(300):
            if found := await _refusal(cluster, pod):
                break
            await asyncio.sleep(0.1)
    finally:
        await client.close()
    assert found == wanted


async def _refusal(cluster: Cluster, pod: Object) -> tuple[str, int, str, str] | None:
    try:
        await cluster.create(PODS, pod, dry_run=True)
    except ClusterError as error:
        # Why the webhook's Service was not reached is a matter of networks.
        words = error.message.partition("failed to call webhook")[0]
        return type(error).__name__, error.status, error.reason, words
    return None

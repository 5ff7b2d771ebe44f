"""An API server that refuses the operator everything, or one kind, in the middle of a bind and of a release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.replicas import Replicas
from support.world import World, eventually, reason
from weft.api.resources import DEVICE_ATTACHMENTS, ResourceType
from weft.cluster import ClusterError
from weft_dev.controlplane import ControlPlane, write_kubeconfig
from weft_dev.kube import Kube

Object = dict[str, Any]

SERVICE_ACCOUNTS = ResourceType("", "v1", "serviceaccounts", "ServiceAccount", True)
RBAC = "rbac.authorization.k8s.io"
BINDINGS = ResourceType(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", False)
ADMISSION = "admissionregistration.k8s.io"
WEBHOOKS = ResourceType(
    ADMISSION, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", False
)
SETTINGS = {"lease_seconds": 3, "relist_seconds": 5}


class Account:
    """The operator's, which may do everything while `allow` is the last that was said."""

    def __init__(self, plane: ControlPlane, namespace: str, directory: Path) -> None:
        self._kube: Kube = plane.client()
        self._namespace = namespace
        self.name = f"weft-{namespace}"
        self._kube.create(SERVICE_ACCOUNTS, _object(SERVICE_ACCOUNTS, "weft"), namespace)
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/weft/token"
        answer = self._kube.request("POST", path, {"spec": {"expirationSeconds": 3600}})
        self.kubeconfig = directory / "account.kubeconfig"
        write_kubeconfig(self.kubeconfig, plane.url, answer["status"]["token"], plane.ca_file)
        self.allow()

    def allow(self) -> None:
        role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"}
        subject = {"kind": "ServiceAccount", "name": "weft", "namespace": self._namespace}
        body = _object(BINDINGS, self.name) | {"roleRef": role, "subjects": [subject]}
        self._kube.create(BINDINGS, body)

    def revoke(self) -> None:
        self._kube.delete(BINDINGS, self.name)


def _object(resource: ResourceType, name: str) -> Object:
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}}


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=2, gpus=2, memories=1)
    # A bind takes long enough to be caught in its middle.
    world.start_emulator("--permissive", "--latency-ms", "200")
    world.create()
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def account(control_plane: ControlPlane, namespace: str, world: World) -> Iterator[Account]:
    account = Account(control_plane, namespace, world.directory)
    replicas = Replicas(world, {"api": account.kubeconfig}, SETTINGS)
    try:
        yield account
    finally:
        account.revoke()
        replicas.close()


def test_a_bind_and_a_release_during_which_the_roles_are_revoked_go_on_when_they_are_back(
    world: World, account: Account
) -> None:
    world.logical_node("trainer")
    eventually(lambda: len(world.claims()) == 3, 30, every=0.01, what="claimed")
    account.revoke()
    assert not world.is_bound("trainer")
    # What had been asked of the manager ends; nothing is asked that no claim stands for.
    eventually(lambda: world.processes.exit_code("operator-1") is not None, 30, what="the lease is lost")
    claimed = {(c["spec"]["device"], c["spec"]["host"]) for c in world.claims()}
    assert world.attached() <= claimed
    account.allow()
    eventually(lambda: world.is_bound("trainer"), 60, what="bound")
    assert world.attached() == claimed
    world.delete("trainer")
    eventually(lambda: any(c["metadata"].get("deletionTimestamp") for c in world.claims()), 30, every=0.01)
    account.revoke()
    assert world.get("trainer") is not None
    account.allow()
    eventually(lambda: world.get("trainer") is None and not world.claims(), 60, what="released")
    assert world.attached() == set()


@pytest.fixture
def webhook(kube: Kube, namespace: str) -> Iterator[Object]:
    """An admission webhook for DeviceAttachments that nobody answers, and without which nothing is admitted."""
    rule = {
        "apiGroups": ["weft.dev"],
        "apiVersions": ["*"],
        "resources": ["deviceattachments"],
        "operations": ["CREATE", "UPDATE", "DELETE"],
        "scope": "*",
    }
    hook = {
        "name": "nobody.weft.dev",
        "clientConfig": {"url": "https://127.0.0.1:9/admit"},
        "rules": [rule],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    body = _object(WEBHOOKS, f"weft-{namespace}") | {"webhooks": [hook]}
    try:
        yield body
    finally:
        kube.delete(WEBHOOKS, body["metadata"]["name"])


def test_an_admission_webhook_that_is_down_holds_binds_and_releases_up_and_is_named(
    world: World, kube: Kube, webhook: Object
) -> None:
    name = webhook["metadata"]["name"]
    kube.create(WEBHOOKS, webhook)
    world.start_operator(**SETTINGS)
    world.logical_node("trainer")
    eventually(lambda: reason(world.get("trainer"), "Reserved") == "ClaimRefused", 60, what="it is said")
    assert "nobody.weft.dev" in message(world.get("trainer"), "Reserved")
    assert world.attached() == set()
    assert world.claims() == []
    kube.delete(WEBHOOKS, name)
    eventually(lambda: world.is_bound("trainer"), 60, what="bound")
    kube.create(WEBHOOKS, webhook)
    # The API server asks a new webhook some time after it was made.
    eventually(lambda: _is_refused(world), 30, what="the webhook is asked")
    world.delete("trainer")
    eventually(lambda: "nobody.weft.dev" in message(world.get("trainer"), "Bound"), 30, what="it is said")
    assert len(world.claims()) == 3, "nothing is free that is still claimed"
    kube.delete(WEBHOOKS, name)
    eventually(lambda: world.get("trainer") is None and not world.claims(), 60, what="released")
    assert world.attached() == set()


def message(node: Object | None, kind: str) -> str:
    conditions = (node or {}).get("status", {}).get("conditions", [])
    return next((str(each.get("message", "")) for each in conditions if each["type"] == kind), "")


def _is_refused(world: World) -> bool:
    claim = world.claims()[0]["metadata"]["name"]
    try:
        world.kube.patch(DEVICE_ATTACHMENTS, claim, {"metadata": {"annotations": {"test": "x"}}})
    except ClusterError:
        return True
    return False

"""Install, upgrade, uninstall and install again by Helm, on a real API server. Nothing runs in the pods here."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.chart import CHART, NAMESPACE, Helm, Object
from support.world import eventually
from weft.api import crd
from weft.api.resources import LEASES, LOGICAL_NODES, ResourceType
from weft_dev import controlplane, tools
from weft_dev.controlplane import ControlPlane
from weft_dev.kube import Kube

RBAC = "rbac.authorization.k8s.io"
DEFINITIONS = ResourceType(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False
)
KINDS = (
    ("", "v1", ("configmaps", "pods", "secrets", "serviceaccounts", "services")),
    ("apps", "v1", ("deployments", "replicasets")),
    ("batch", "v1", ("jobs",)),
    ("policy", "v1", ("poddisruptionbudgets",)),
    ("coordination.k8s.io", "v1", ("leases",)),
    (RBAC, "v1", ("clusterroles", "clusterrolebindings", "roles", "rolebindings")),
    ("apiextensions.k8s.io", "v1", ("customresourcedefinitions",)),
)


@pytest.fixture(scope="module")
def plane(tool_paths: dict[str, Path]) -> Iterator[ControlPlane]:
    with controlplane.start(binaries=tool_paths) as plane:
        yield plane


@pytest.fixture
def helm(plane: ControlPlane, tmp_path: Path) -> Helm:
    return Helm(tools.provide(["helm"])["helm"], tmp_path, plane.kubeconfig)


def succeed(helm: Helm, *arguments: str | Path) -> str:
    done = helm.run(*arguments, "--namespace", NAMESPACE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(helm: Helm, *arguments: str | Path) -> str:
    done = helm.run(*arguments, "--namespace", NAMESPACE)
    assert done.returncode != 0, done.stdout
    return done.stderr


def of_the_release(kube: Kube) -> dict[str, list[str]]:
    """Names of everything in the cluster that came from the release, by resource."""
    found: dict[str, list[str]] = {}
    for group, version, plurals in KINDS:
        for plural in plurals:
            resource = ResourceType(group, version, plural, "", False)
            items = kube.list(resource, selector="app.kubernetes.io/instance=weft")
            if items:
                found[plural] = sorted(item["metadata"]["name"] for item in items)
    return found


def served(kube: Kube, path: str) -> bool:
    return kube.raw("GET", path)[0] == 200


def configured(kube: Kube) -> str:
    """The operator's settings, as its pods would read them."""
    found = kube.get(ResourceType("", "v1", "configmaps", "ConfigMap", True), "weft", NAMESPACE)
    assert found is not None
    return str(found["data"])


def logical_node(name: str) -> Object:
    return {
        "apiVersion": LOGICAL_NODES.api_version,
        "kind": LOGICAL_NODES.kind,
        "metadata": {"name": name, "finalizers": ["weft.dev/fabric"]},
        "spec": {"accelerators": [{"name": "main", "count": 1}]},
    }


def test_objects_outlive_the_release_and_the_next_one_takes_them_up(helm: Helm, plane: ControlPlane) -> None:
    kube = plane.client()
    install = ("install", "weft", CHART, "--create-namespace", "--set", "emulator.enabled=true")
    succeed(helm, *install)
    before = of_the_release(kube)
    assert len(before["customresourcedefinitions"]) == len(crd.DEFINITIONS)
    assert before["leases"] == ["weft-operator"]
    path = LOGICAL_NODES.path("default")
    eventually(lambda: served(kube, path), what="the definitions are served")
    uid = kube.create(LOGICAL_NODES, logical_node("trainer"), "default")["metadata"]["uid"]

    # An operator took the Lease: an upgrade must not take it away.
    kube.patch(LEASES, "weft-operator", {"spec": {"holderIdentity": "weft-0"}}, NAMESPACE)
    succeed(helm, "upgrade", "weft", CHART, "--reuse-values", "--set", "settings.workers=8")
    lease = kube.get(LEASES, "weft-operator", NAMESPACE)
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == "weft-0"

    # Nor does the way back, with which the definitions stay served and what is bound stays bound.
    upgraded, bound = configured(kube), kube.get(LOGICAL_NODES, "trainer", "default")
    succeed(helm, "rollback", "weft", "1")
    assert "workers" in upgraded
    assert "workers" not in configured(kube)
    lease = kube.get(LEASES, "weft-operator", NAMESPACE)
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == "weft-0"
    assert kube.get(LOGICAL_NODES, "trainer", "default") == bound

    succeed(helm, "uninstall", "weft")
    kept = {"customresourcedefinitions": before["customresourcedefinitions"]}
    eventually(lambda: of_the_release(kube) == kept, 60, what="only the definitions are left")
    node = kube.get(LOGICAL_NODES, "trainer", "default")
    assert node is not None
    assert node["metadata"]["uid"] == uid

    assert "cannot be imported into the current release" in refusal(helm, "install", "other", CHART)
    succeed(helm, *install)
    node = kube.get(LOGICAL_NODES, "trainer", "default")
    assert node is not None
    assert (node["metadata"]["uid"], "deletionTimestamp" in node["metadata"]) == (uid, False)
    # The API server would wait for it when the definitions go.
    kube.patch(LOGICAL_NODES, "trainer", {"metadata": {"finalizers": None}}, "default")
    kube.delete(LOGICAL_NODES, "trainer", "default")


def test_definitions_that_are_not_kept_cannot_be_left_out_of_an_upgrade(
    helm: Helm, plane: ControlPlane
) -> None:
    kube = plane.client()
    leave_out = ("upgrade", "weft", CHART, "--set", "crds.enabled=false")
    succeed(helm, "upgrade", "--install", "weft", CHART, "--create-namespace", "--set", "crds.keep=false")
    said = refusal(helm, *leave_out)
    assert "would delete the definitions that this release owns, and all objects of theirs" in said
    succeed(helm, "upgrade", "weft", CHART, "--set", "crds.keep=true")
    succeed(helm, *leave_out)
    assert len(kube.list(DEFINITIONS)) == len(crd.DEFINITIONS)


def test_a_second_operator_is_refused_while_one_is_installed(helm: Helm) -> None:
    succeed(helm, "upgrade", "--install", "weft", CHART, "--create-namespace")
    elsewhere = ("--create-namespace", "--namespace", "elsewhere", "--set", "crds.enabled=false")
    done = helm.run("install", "other", CHART, *elsewhere)
    assert done.returncode != 0
    assert "the release weft in namespace weft-system runs Weft in this cluster already" in done.stderr
    succeed(helm, "uninstall", "weft")
    done = helm.run("install", "other", CHART, *elsewhere)
    assert done.returncode == 0, done.stderr
    assert helm.run("uninstall", "other", "--namespace", "elsewhere").returncode == 0


def test_a_renewed_installation_keeps_the_emulators_certificate(helm: Helm, plane: ControlPlane) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/weft-emulator-tls"
    values = ("--create-namespace", "--set", "emulator.enabled=true")
    succeed(helm, "upgrade", "--install", "weft", CHART, *values)
    first = plane.client().request("GET", path)["data"]
    succeed(helm, "upgrade", "weft", CHART, *values, "--set", "settings.workers=4")
    assert plane.client().request("GET", path)["data"] == first


def test_definitions_applied_by_hand_are_taken_over_when_asked(helm: Helm, plane: ControlPlane) -> None:
    kube = plane.client()
    succeed(helm, "uninstall", "weft", "--ignore-not-found")
    for definition in kube.list(DEFINITIONS):
        name = definition["metadata"]["name"]
        # The API server makes the storage at its first use. Where that is the deletion itself, it fails, and may be
        # tried again only minutes later.
        path = f"/apis/weft.dev/v1alpha2/{name.partition('.')[0]}"
        eventually(functools.partial(served, kube, path), what=f"{name} is served")
        kube.delete(DEFINITIONS, name)
    eventually(lambda: not kube.list(DEFINITIONS), 60, what="the definitions are gone")
    controlplane.install_crds(kube, (CHART.parents[1] / "crds").glob("*.yaml"))
    install = ("install", "weft", CHART, "--create-namespace")
    assert "cannot be imported into the current release" in refusal(helm, *install)
    succeed(helm, *install, "--take-ownership")
    annotations = [each["metadata"]["annotations"] for each in kube.list(DEFINITIONS)]
    assert [each["helm.sh/resource-policy"] for each in annotations] == ["keep"] * len(crd.DEFINITIONS)

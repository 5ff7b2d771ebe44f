"""The local control plane: what it is, and that nothing of it outlives its owner."""

from __future__ import annotations

from pathlib import Path

from weft.api.resources import NODES, PODS
from weft_dev.controlplane import ControlPlane
from weft_dev.kube import Kube, Object, eventually


def test_the_control_plane_is_of_the_version_that_weft_is_for(kube: Kube) -> None:
    assert kube.request("GET", "/version")["gitVersion"].startswith("v1.37.")


def node(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}}


READY = {
    "capacity": {"cpu": "8", "memory": "16Gi", "pods": "10"},
    "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "10"},
    "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}],
}


async def test_a_pod_is_scheduled_to_a_node_object(kube: Kube, namespace: str) -> None:
    kube.create(NODES, node(namespace))
    kube.patch(NODES, namespace, {"status": READY}, subresource="status")
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "engine"},
        "spec": {
            "nodeSelector": {"weft.dev/test": namespace},
            "containers": [{"name": "engine", "image": "none"}],
            "tolerations": [{"operator": "Exists"}],
        },
    }
    kube.patch(NODES, namespace, {"metadata": {"labels": {"weft.dev/test": namespace}}})
    kube.create(PODS, pod, namespace)

    def assigned() -> str | None:
        found = kube.get(PODS, "engine", namespace)
        assert found is not None
        name: str | None = found["spec"].get("nodeName")
        return name

    assert await eventually(assigned, what="the pod's node") == namespace
    kube.delete(NODES, namespace)


async def test_a_restart_of_the_api_server_keeps_objects_and_address(
    control_plane: ControlPlane, kube: Kube, namespace: str
) -> None:
    control_plane.restart_apiserver(grace_seconds=0)
    assert kube.request("GET", f"/api/v1/namespaces/{namespace}")["metadata"]["name"] == namespace


def test_kubectl_talks_to_this_control_plane_alone(
    control_plane: ControlPlane, kubectl, tmp_path: Path
) -> None:
    assert (
        kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}").stdout == control_plane.url
    )
    assert not (tmp_path / ".kube" / "config").exists()

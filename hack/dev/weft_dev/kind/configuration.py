"""What the cluster is like: its nodes, address ranges and kubelet settings, as kind takes them."""

from __future__ import annotations

import json
from typing import Any

CLUSTER = "weft"
NODES = ("weft-control-plane", "weft-worker", "weft-worker2")
POD_RANGE = "10.244.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
OFFICIAL_IMAGE = (
    "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
)
"""The node image that the kind of hack/offline/modules/kind was released with."""

# The kubelet refuses cgroup v1 unless told; where there is cgroup v2 it changes nothing.
ANY_KUBELET: dict[str, Any] = {"failCgroupV1": False}
# Inside a node everything belongs to the node, so the kubelet starts at the root of what it sees. The resolver is
# the one that hack/offline/node/entrypoint writes.
OWN_KUBELET: dict[str, Any] = {
    **ANY_KUBELET,
    "cgroupDriver": "cgroupfs",
    "cgroupRoot": "/",
    "resolvConf": "/run/kubelet/resolv.conf",
}


def configuration(image: str) -> str:
    """The cluster's configuration for kind (JSON, which is YAML)."""
    kubelet = ANY_KUBELET if image == OFFICIAL_IMAGE else OWN_KUBELET
    roles = ("control-plane", "worker", "worker")
    return json.dumps(
        {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "name": CLUSTER,
            "networking": {
                # Who can reach the API server is who can reach this machine's loopback.
                "apiServerAddress": "127.0.0.1",
                "podSubnet": POD_RANGE,
                "serviceSubnet": SERVICE_RANGE,
            },
            "nodes": [{"role": role, "image": image} for role in roles],
            "kubeadmConfigPatches": [json.dumps({"kind": "KubeletConfiguration", **kubelet})],
        },
        indent=2,
    )

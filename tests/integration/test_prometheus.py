"""The Prometheus that the demo and the tests use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.eventually import eventually
from weft.api.resources import PODS
from weft.cluster import Object
from weft_dev import prometheus
from weft_dev.controlplane import ControlPlane
from weft_dev.kube import Kube
from weft_dev.processes import ProcessError, free_ports

SELF = json.dumps({"scrape_configs": [{"job_name": "none", "static_configs": []}]})


async def test_running_pods_of_a_group_are_found_by_their_label(
    control_plane: ControlPlane, kube: Kube, namespace: str, tool_paths: dict[str, Path]
) -> None:
    group = {"weft.dev/group": "llama"}
    pods = (
        ("engine", group, {"podIP": "127.64.0.9", "phase": "Running"}),
        ("waiting", group, {"phase": "Pending"}),
        ("done", group, {"podIP": "127.64.0.10", "phase": "Succeeded"}),
        ("broken", group, {"podIP": "127.64.0.11", "phase": "Failed"}),
        ("other", {}, {"podIP": "127.64.0.12", "phase": "Running"}),
    )
    for name, labels, status in pods:
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "engine", "image": "none"}]},
        }
        kube.create(PODS, pod, namespace)
        kube.patch(PODS, name, {"status": status}, namespace, subresource="status")
    port, binary = free_ports(1)[0], tool_paths["prometheus"]
    with prometheus.start_for_pods(control_plane.kubeconfig, port=port, binary=binary) as server:
        # Nothing listens there: that the target is known at all is what is asked.
        found = await eventually(lambda: server.query(f'up{{namespace="{namespace}"}}'), what="a target")
    assert [sample["metric"]["pod"] for sample in found] == ["engine"]


def test_a_configuration_that_is_not_valid_is_refused_with_its_reason(tool_paths: dict[str, Path]) -> None:
    with prometheus.start(SELF, binary=tool_paths["prometheus"]) as server:
        directory = server.directory
        server.reload(SELF)
        with pytest.raises(ProcessError, match="no_such_setting"):
            server.reload('{"no_such_setting": 1}')
    assert not directory.exists()

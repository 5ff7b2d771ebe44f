"""Condition Ready as a kubelet decides it."""

from __future__ import annotations

from typing import Any

from weft_dev.kubelet import node_names
from weft_dev.pod_status import ready, ready_patch, running_patch

NOW = "2026-01-01T00:00:00Z"


def pod(gates: list[str], conditions: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "uid": "u"},
        "spec": {
            "containers": [{"name": "c"}],
            "readinessGates": [{"conditionType": gate} for gate in gates],
        },
        "status": {"conditions": [{"type": kind, "status": status} for kind, status in conditions.items()]},
    }


def written(patch: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = (each for each in patch["status"]["conditions"] if each["type"] == kind)
    return dict(found)


def test_a_pod_without_gates_is_ready_when_it_runs() -> None:
    assert ready(pod([], {})).status


def test_a_gate_that_is_missing_or_not_true_keeps_the_pod_unready_and_is_named() -> None:
    for conditions in ({}, {"weft.dev/serving": "False"}, {"weft.dev/serving": "Unknown"}):
        verdict = ready(pod(["weft.dev/serving"], conditions))
        assert not verdict.status
        assert "weft.dev/serving" in verdict.message


def test_every_gate_has_to_be_true() -> None:
    assert not ready(pod(["a/b", "c/d"], {"a/b": "True"})).status
    assert ready(pod(["a/b", "c/d"], {"a/b": "True", "c/d": "True"})).status


def test_a_running_pod_reports_its_address_and_leaves_gates_to_their_writer() -> None:
    patch = running_patch(pod(["weft.dev/serving"], {}), "127.64.0.9", "127.0.0.1", NOW, NOW)
    assert patch["status"]["podIP"] == "127.64.0.9"
    assert patch["status"]["phase"] == "Running"
    assert written(patch, "ContainersReady")["status"] == "True"
    assert written(patch, "Ready")["status"] == "False"
    assert all(each["type"] != "weft.dev/serving" for each in patch["status"]["conditions"])


def test_ready_is_written_only_when_it_changes() -> None:
    serving = pod(["weft.dev/serving"], {"weft.dev/serving": "True", "Ready": "False"})
    patch = ready_patch(serving, NOW)
    assert patch is not None
    assert written(patch, "Ready")["status"] == "True"
    assert ready_patch(pod(["weft.dev/serving"], {"weft.dev/serving": "True", "Ready": "True"}), NOW) is None
    closed = ready_patch(pod(["weft.dev/serving"], {"weft.dev/serving": "False", "Ready": "True"}), NOW)
    assert closed is not None
    assert written(closed, "Ready")["status"] == "False"


def test_names_of_nodes_may_be_ranges() -> None:
    assert node_names("worker-0..2,other") == ["worker-0", "worker-1", "worker-2", "other"]

"""What a kubelet writes into a pod's status. Pure: a pod and the time in, a patch out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weft.cluster import Object


@dataclass(frozen=True)
class Verdict:
    """A condition's value: `reason` and `message` are empty where the status is True."""

    status: bool
    reason: str = ""
    message: str = ""


def ready(pod: Object) -> Verdict:
    """Whether a pod whose containers run is Ready: every readiness gate's condition has to be True."""
    conditions = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", ())}
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates", ())]
    missing = [gate for gate in gates if conditions.get(gate) != "True"]
    if not missing:
        return Verdict(True)
    named = ", ".join(f'"{gate}"' for gate in missing)
    return Verdict(False, "ReadinessGatesNotReady", f"the status of pod readiness gate {named} is not True")


def running_patch(pod: Object, ip: str, host_ip: str, now: str, started_at: str) -> Object:
    """The status of a pod whose containers have just become ready, as a strategic merge patch.

    `started_at`: when they began. Both are RFC 3339. Conditions that others write (readiness gates) are left alone.
    """
    containers = [
        {
            "name": container["name"],
            "image": container.get("image", ""),
            "imageID": "",
            "containerID": f"emulated://{pod['metadata']['uid']}/{container['name']}",
            "ready": True,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": started_at}},
        }
        for container in pod["spec"]["containers"]
    ]
    conditions = [
        _condition(kind, Verdict(True), now) for kind in ("PodScheduled", "Initialized", "ContainersReady")
    ]
    return {
        "status": {
            "phase": "Running",
            "hostIP": host_ip,
            "hostIPs": [{"ip": host_ip}],
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "startTime": started_at,
            "containerStatuses": containers,
            "conditions": [*conditions, _condition("Ready", ready(pod), now)],
        }
    }


def ready_patch(pod: Object, now: str) -> Object | None:
    """The patch that brings condition Ready up to date, or None where it is."""
    verdict = ready(pod)
    for each in pod.get("status", {}).get("conditions", ()):
        same = (each["type"], each["status"]) == ("Ready", str(verdict.status))
        if same and each.get("message", "") == verdict.message:
            return None
    return {"status": {"conditions": [_condition("Ready", verdict, now)]}}


def _condition(kind: str, verdict: Verdict, now: str) -> dict[str, Any]:
    # null removes what an earlier value of the condition said.
    return {
        "type": kind,
        "status": str(verdict.status),
        "lastTransitionTime": now,
        "reason": verdict.reason or None,
        "message": verdict.message or None,
    }

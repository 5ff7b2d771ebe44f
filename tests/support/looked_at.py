"""Objects as the API server gives them to what a person asks of a cluster: a small one, and one of any size."""

from __future__ import annotations

import copy
import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    PODS,
    ResourceType,
)
from weft.cli.look.reading import KINDS, Reading

Object = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EARLIER = "2026-01-01T11:55:00Z"


def made(
    resource: ResourceType, name: str, spec: Object, state: Object | None = None, **metadata: Any
) -> Object:
    where = {"namespace": "team-a"} if resource.namespaced else {}
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": name, "resourceVersion": "7", "generation": 1, "creationTimestamp": EARLIER, **where, **metadata
        },
        "spec": spec,
        "status": state or {},
    }  # fmt: skip


def said(type: str, word: str, reason: str, message: str = "") -> Object:
    return {
        "type": type, "status": word, "reason": reason, "message": message,
        "observedGeneration": 1, "lastTransitionTime": EARLIER,
    }  # fmt: skip


FABRIC = made(
    FABRICS,
    "rack",
    {"mode": "Manage", "endpoint": "https://fm"},
    {"devices": 8, "hosts": 2, "nodes": 2, "conditions": [said("Connected", "True", "Connected")]},
)
POOL = made(
    GPU_POOLS,
    "a100",
    {"fabricRef": {"name": "rack"}},
    {
        "devices": {"total": 8, "free": 3, "bound": 4, "reserved": 0, "quarantined": 1, "unavailable": 0},
        "conditions": [said("Ready", "True", "FabricRead")],
    },
)
ASKED = {"accelerators": [{"name": "main", "count": 4}]}
BOUND = made(
    LOGICAL_NODES,
    "trainer",
    ASKED,
    {
        "nodeName": "worker-1",
        "devices": [
            {
                "request": "main",
                "poolRef": {"kind": "GPUPool", "name": "a100"},
                "device": "gpu-1",
                "attachment": "rack.gpu-1",
            }
        ],
        "conditions": [said("Bound", "True", "Attached"), said("Ready", "True", "Attached")],
    },
)
WAITS = made(
    LOGICAL_NODES,
    "greedy",
    ASKED,
    {"conditions": [said("Bound", "False", "NotEnoughDevices", "main: 4 asked for, too few are free")]},
)
CLAIM = made(
    DEVICE_ATTACHMENTS,
    "rack.gpu-1",
    {
        "fabric": "rack",
        "device": "gpu-1",
        "poolRef": {"kind": "GPUPool", "name": "a100"},
        "host": "sled-1",
        "nodeName": "worker-1",
        "operation": "op",
        "request": "main",
        "claimSize": 1,
        "claimRef": {"namespace": "team-a", "name": "trainer", "uid": "1"},
    },
)
DECISION = {
    "reason": "decode 1, prefill 2 is better than decode 2, prefill 1; prefill needs 1.6 replicas",
    "decisionTime": EARLIER,
    "previous": [{"role": "decode", "replicas": 2}, {"role": "prefill", "replicas": 1}],
    "alternatives": [
        {
            "allocation": [{"role": "decode", "replicas": 2}, {"role": "prefill", "replicas": 1}],
            "score": "0.200",
            "reason": "stay; expected violations 0.20",
        }
    ],
}
GROUP = made(
    INFERENCE_GROUPS,
    "llama",
    {
        "objectives": {"timeToFirstTokenMilliseconds": 1000},
        "metrics": {"models": ["llama"]},
        "accelerators": {"maximum": 8},
        "rebalance": {"mode": "Recommend"},
        "template": {
            "spec": {"containers": [{"name": "e", "env": [{"name": "TOKEN", "value": "canary-1"}]}]}
        },
    },
    {
        "split": "decode 1, prefill 2",
        "desiredReplicas": 3,
        "readyReplicas": 2,
        "allocation": [{"role": "decode", "replicas": 1}, {"role": "prefill", "replicas": 2}],
        "decision": DECISION,
        "conditions": [said("ObjectivesMet", "False", "Missed", "too late")],
    },
    annotations={"kubectl.kubernetes.io/last-applied-configuration": "canary-2", "weft.dev/kept": "kept"},
)
ROLE = made(
    INFERENCE_ROLES,
    "prefill",
    {"groupRef": {"name": "llama"}, "stage": "Prefill", "maxReplicas": 4, "profileRef": {"name": "p"}},
    {
        "desiredReplicas": 2,
        "readyReplicas": 1,
        "conditions": [said("Ready", "False", "WaitingForReplicas", "one")],
    },
)
LABELS = {"weft.dev/group": "llama", "weft.dev/role": "prefill", "weft.dev/replica": "llama-1"}
POD = made(
    PODS,
    "llama-1",
    {
        "nodeName": "worker-1",
        "containers": [{"name": "e", "args": ["--key=canary-3"], "image": "canary-4/e"}],
    },
    {
        "phase": "Pending",
        "containerStatuses": [
            {"name": "e", "image": "canary-4/e", "lastState": {"terminated": {"message": "canary-5"}}}
        ],
    },
    labels=LABELS,
)


def reading(
    *objects: Object, denied: tuple[str, ...] = (), nobody_leads: str = "", narrowed: str = ""
) -> Reading:
    resources = (*(resource for resource, _ in KINDS), PODS)
    by_resource = {
        resource: tuple(one for one in objects if one["kind"] == resource.kind) for resource in resources
    }
    return Reading(NOW, by_resource, denied, nobody_leads, narrowed)


EVERYTHING = (FABRIC, POOL, BOUND, WAITS, CLAIM, GROUP, ROLE, POD)


def cluster(hosts: int, groups: int, devices_per_host: int = 8) -> Reading:
    """So many groups and hosts: with a logical node of that many devices each, but for one that has a quarantined
    device and one that has none."""
    fabric, pool = (copy.deepcopy(one) for one in (FABRIC, POOL))
    bound = (hosts - 2) * devices_per_host
    fabric["spec"]["hosts"] = [{"host": f"sled-{n:03}", "nodeName": f"worker-{n:03}"} for n in range(hosts)]
    fabric["status"] |= {"devices": bound + 12, "hosts": hosts, "nodes": hosts}
    pool["status"]["devices"] = {
        "total": bound + 12, "free": 7, "bound": bound, "reserved": 2, "quarantined": 1, "unavailable": 2,
    }  # fmt: skip
    pool["status"] |= {"kept": 4, "stranded": [{"reason": "NoHost", "devices": 3}]}
    objects = [fabric, pool]
    for n in range(hosts - 2):
        node = copy.deepcopy(BOUND)
        node["metadata"]["name"] = f"trainer-{n:03}"
        node["status"] |= {"nodeName": f"worker-{n:03}", "host": f"sled-{n:03}", "devices": []}
        for m in range(devices_per_host):
            claim, device = copy.deepcopy(CLAIM), f"gpu-{n:03}-{m}"
            claim["metadata"]["name"] = f"rack.{device}"
            claim["spec"] |= {"device": device, "host": f"sled-{n:03}", "nodeName": f"worker-{n:03}"}
            claim["spec"]["claimRef"] = {"namespace": "team-a", "name": f"trainer-{n:03}", "uid": str(n)}
            objects.append(claim)
            device_of = {**BOUND["status"]["devices"][0], "device": device, "attachment": f"rack.{device}"}
            node["status"]["devices"].append(device_of)
        objects.append(node)
    for n in range(groups):
        group = copy.deepcopy(GROUP)
        group["metadata"]["name"] = f"llama-{n:03}"
        if n % 2:
            group["status"]["conditions"] = [said("ObjectivesMet", "True", "Met")]
        objects.append(group)
    waits = copy.deepcopy(WAITS)
    waits["status"]["queuePlace"] = "1"
    failed = copy.deepcopy(CLAIM)
    failed["metadata"]["name"] = "rack.failed"
    failed["spec"] |= {
        "device": "failed",
        "host": f"sled-{hosts - 2:03}",
        "nodeName": f"worker-{hosts - 2:03}",
    }
    failed["spec"]["claimRef"] |= {"name": waits["metadata"]["name"]}
    failed["status"]["conditions"] = [said("Quarantined", "True", "AttachFailed")]
    objects.append(failed)
    return reading(*objects, waits)


def text_of(view: Any) -> str:
    """What a terminal of 200 columns would show."""
    out = io.StringIO()
    Console(file=out, width=200, highlight=False, markup=False).print(view)
    return out.getvalue()

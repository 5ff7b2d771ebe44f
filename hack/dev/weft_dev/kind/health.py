"""Whether a cluster works, judged by what its nodes said after they were started.

What the API server has of a node that was stopped stays good for a while: its Ready condition for 40 s, its pods'
for longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

FRESH = timedelta(seconds=20)
"""A kubelet renews its node's lease every 10 s."""
RESOLUTION = timedelta(seconds=1)
"""Of times in a pod's status."""


def unrenewed(leases: Iterable[dict[str, Any]], started: Mapping[str, datetime], now: datetime) -> str:
    """Which of the nodes that were `started` then have not been heard of lately, or since; empty when none."""
    renewed = {
        lease["metadata"]["name"]: datetime.fromisoformat(lease["spec"]["renewTime"]) for lease in leases
    }
    late = [
        name
        for name, start in started.items()
        if name not in renewed or renewed[name] < max(start, now - FRESH)
    ]
    return f"{', '.join(late)} is not heard of" if late else ""


def unready(pods: Iterable[dict[str, Any]], started: Mapping[str, datetime]) -> str:
    """Which pods are not ready, or only were before their node was started; empty when none."""
    late = [
        pod["metadata"]["name"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"] and not _is_ready(pod, started)
    ]
    return f"not ready: {', '.join(late)}" if late else ""


def _is_ready(pod: dict[str, Any], started: Mapping[str, datetime]) -> bool:
    status = pod["status"]
    since = started.get(pod["spec"].get("nodeName", ""))
    conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
    if since is None or conditions.get("Ready") != "True":
        return False
    running = [each["state"].get("running") for each in status.get("containerStatuses", ())]
    return all(
        each is not None and datetime.fromisoformat(each["startedAt"]) > since - RESOLUTION
        for each in running
    )

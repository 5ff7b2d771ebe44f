"""What the live tests share: the demo's world with a quick preset, and the group in it as users see it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from weft.api.resources import DEVICE_ATTACHMENTS, EVENTS, INFERENCE_GROUPS, PODS
from weft.cluster import Object
from weft.emulator import journal
from weft_dev.kube import Kube
from weft_playground.case import AUTO
from weft_playground.demo.story import KINDS
from weft_playground.demo.world import LoopbackWorld
from weft_playground.trace import Request

REQUESTS = "inference_objective_request_total"
PRESET = {
    "inherits": "vllm",
    "kv_hold_seconds": 3,
    # The last minutes are the last 40 s here: a test does not wait for twenty of them.
    "front_end": {
        "past_windows": f"20 * count by (namespace, model_name) ({REQUESTS})",
        "requests_past": f"max_over_time((sum by (namespace, model_name) (rate({REQUESTS}[15s])))[40s:5s])",
    },
}
DEPLOYMENT = {"group": "apps", "version": "v1", "kind": "Deployment", "resource": "deployments"}


class World(LoopbackWorld):
    """The demo's, with that preset, and Deployments as workloads that Weft may scale."""

    def operator_settings(self) -> dict[str, Any]:
        return {**super().operator_settings(), "presets": {"quick": PRESET}, "scale_targets": [DEPLOYMENT]}


async def until(look: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(look):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.3)


class Seen:
    """The group as users see it."""

    def __init__(self, world: World) -> None:
        assert world.plane is not None
        self.world = world
        self.kube: Kube = world.plane.client()

    def apply(self, objects: Sequence[Object]) -> None:
        for one in objects:
            if one["kind"] != "LogicalNode":
                self.kube.apply(KINDS[one["kind"]], one)

    def status(self) -> Object:
        (group,) = self.kube.list(INFERENCE_GROUPS, AUTO)
        return group.get("status") or {}

    def balanced(self) -> tuple[str, str]:
        """Reason and message of its condition Balanced."""
        found: dict[str, Any] = next(
            (one for one in self.status().get("conditions", ()) if one["type"] == "Balanced"), {}
        )
        return found.get("reason", ""), found.get("message", "")

    def ready(self) -> list[Object]:
        """Pods that are Ready and do not end."""
        return [
            pod
            for pod in self.kube.list(PODS, AUTO)
            if "deletionTimestamp" not in pod["metadata"]
            and any(
                one["type"] == "Ready" and one["status"] == "True"
                for one in (pod.get("status") or {}).get("conditions") or ()
            )
        ]

    def serving(self) -> dict[str, int]:
        """Ready pods per role."""
        counts: dict[str, int] = {}
        for pod in self.ready():
            role = pod["metadata"]["labels"]["weft.dev/role"]
            counts[role] = counts.get(role, 0) + 1
        return counts

    def events(self) -> set[str]:
        return {one["reason"] for one in self.kube.list(EVENTS, AUTO)}

    async def remove(self) -> journal.Report:
        """Delete the group; the fabric managers' journal once every device is given back."""
        self.kube.delete(INFERENCE_GROUPS, self.world.examples.group_name, AUTO)
        await until(lambda: not self.kube.list(DEVICE_ATTACHMENTS), "every device is given back")
        report = journal.check(self.world.journal_lines())
        assert report.double_attached == report.left_attached == ()
        return report


def whole(answers: str, requests: Sequence[Request]) -> int:
    """How many answers there were: one for each request, none failed, none cut."""
    results = [json.loads(line) for line in answers.splitlines()]
    assert len(results) == len(requests)
    assert [one["error"] for one in results if not one["ok"]] == []
    assert sum(one["tokens"] for one in results) == sum(one.answer_tokens for one in requests)
    return len(results)

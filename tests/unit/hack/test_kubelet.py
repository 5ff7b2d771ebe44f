"""The kubelet that plays nodes, against an API server whose answers and events come in any order."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any, cast

from weft.api.resources import PODS, ResourceType
from weft.cluster import Object
from weft_dev.kube_async import AsyncKube
from weft_dev.kubelet import Kubelet

GATE = "weft.dev/serving"


class Server:
    """One pod; `before_answer` may change it between a status write and its answer."""

    def __init__(self) -> None:
        self.pod: Object = {
            "metadata": {"name": "engine-0", "namespace": "demo", "uid": "u", "resourceVersion": "9"},
            "spec": {
                "nodeName": "worker-0",
                "containers": [{"name": "engine"}],
                "readinessGates": [{"conditionType": GATE}],
            },
            "status": {},
        }
        self.events: asyncio.Queue[Object] = asyncio.Queue()
        self.opened = False
        self.ready = asyncio.Event()

    async def follow(self, *_: object, **__: object) -> AsyncIterator[dict[str, Object]]:
        yield {"u": copy.deepcopy(self.pod)}
        while True:
            yield {"u": await self.events.get()}

    async def create(self, _: ResourceType, body: Object, *__: object) -> Object:
        return body

    async def patch(self, resource: ResourceType, _: str, __: str, body: Any, **___: object) -> Object:
        if resource is not PODS:
            return {}
        self.write(body["status"])
        answer = copy.deepcopy(self.pod)
        if not self.opened:
            # Somebody opens the gate, and the watch is quicker than the answer to the kubelet's write.
            self.opened = True
            self.write({"conditions": [{"type": GATE, "status": "True"}]})
            await asyncio.sleep(0.05)
        return answer

    def write(self, status: Object) -> None:
        """As a strategic merge: conditions by type."""
        conditions = {each["type"]: each for each in self.pod["status"].get("conditions", ())}
        for each in status.get("conditions", ()):
            # null removes a field.
            merged = conditions.get(each["type"], {}) | each
            conditions[each["type"]] = {name: value for name, value in merged.items() if value is not None}
        self.pod["status"] = {**self.pod["status"], **status, "conditions": list(conditions.values())}
        self.pod["metadata"]["resourceVersion"] = str(int(self.pod["metadata"]["resourceVersion"]) + 1)
        self.events.put_nowait(copy.deepcopy(self.pod))
        if {("Ready", "True"), (GATE, "True")} <= {
            (name, each["status"]) for name, each in conditions.items()
        }:
            self.ready.set()


async def test_a_pod_whose_gate_opens_while_its_start_is_written_becomes_ready() -> None:
    server = Server()
    playing = asyncio.create_task(Kubelet(cast("AsyncKube", server), ["worker-0"]).run())
    await asyncio.wait_for(server.ready.wait(), 5)
    playing.cancel()

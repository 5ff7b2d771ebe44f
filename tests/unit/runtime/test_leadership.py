from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from weft.api.resources import NODES, ResourceType
from weft.cluster import AlreadyExistsError, ClusterError, ConflictError, NotFoundError, Object
from weft.runtime import leadership as leadership_module
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient
from weft.runtime.cluster import LiveCluster
from weft.runtime.history import History
from weft.runtime.leadership import Leadership
from weft.runtime.metrics import OperatorMetrics

pytestmark = pytest.mark.virtual_time


@pytest.fixture(autouse=True)
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases run out by the clock of the event loop."""
    monkeypatch.setattr(leadership_module, "boottime", lambda: asyncio.get_running_loop().time())


class Server:
    """The API server as far as it concerns one object; `failures` are raised first, one a write."""

    def __init__(self, *failures: Exception) -> None:
        self.stored: Object | None = None
        self.failures = list(failures)
        self.writes = 0

    async def get(
        self, resource: ResourceType, name: str, namespace: str = "", subresource: str = ""
    ) -> Object:
        if self.stored is None:
            raise NotFoundError(404, "NotFound", name)
        return self.stored

    async def create(self, resource: ResourceType, body: Object, *, dry_run: bool = False) -> Object:
        return self._write(body)

    async def replace(self, resource: ResourceType, body: Object) -> Object:
        stored = (self.stored or body)["metadata"].get("resourceVersion")
        if body["metadata"].get("resourceVersion") != stored:
            raise ConflictError(409, "Conflict", "changed")
        return self._write(body)

    def _write(self, body: Object) -> Object:
        if self.failures:
            raise self.failures.pop(0)
        self.writes += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.writes)}
        self.stored = {**body, "metadata": metadata}
        return self.stored


def client(server: Server) -> KubeClient:
    return cast(KubeClient, server)


async def test_an_api_server_that_fails_once_does_not_end_a_replica_that_wants_to_lead() -> None:
    server = Server(ClusterError(500, "InternalError", "etcd"), ClusterError(0, "NoAnswer", "timeout"))
    leadership = Leadership(client(server), "weft-system", "me", lease_seconds=0.3, history=History())
    await asyncio.wait_for(leadership.acquire(), 5)
    assert leadership.remaining_seconds() > 0


@pytest.mark.parametrize(("holder", "left"), [("me", ""), ("other", "other")])
async def test_a_lease_that_changed_unseen_is_given_up_only_by_its_holder(holder: str, left: str) -> None:
    """A renewal that was cancelled at the end of the process may have been stored."""
    server = Server()
    leadership = Leadership(client(server), "weft-system", "me", lease_seconds=60, history=History())
    await leadership.acquire()
    assert server.stored is not None
    renewed = {**server.stored, "spec": {**server.stored["spec"], "holderIdentity": holder}}
    renewed["metadata"] = {**renewed["metadata"], "resourceVersion": "99"}
    server.stored = renewed
    await leadership.release()
    assert server.stored["spec"]["holderIdentity"] == left


async def test_a_replica_that_does_not_lead_writes_nothing() -> None:
    server, leads = Server(), False
    cluster = LiveCluster(client(server), ObjectCache(), "me", lambda: leads, OperatorMetrics())
    body: dict[str, Any] = {"metadata": {"name": "n"}}
    stored = {"metadata": {"name": "n", "resourceVersion": "1"}}
    for attempt in (
        cluster.create(NODES, body),
        cluster.patch(NODES, "n", "", {}),
        cluster.write_status(NODES, stored, {"a": 1}),
        cluster.delete(NODES, "n"),
    ):
        with pytest.raises(ClusterError, match="lease"):
            await attempt
    assert server.writes == 0
    leads = True
    await cluster.create(NODES, body)
    assert server.writes == 1


async def test_a_name_found_taken_is_known_afterwards() -> None:
    server = Server(AlreadyExistsError(409, "AlreadyExists", "n"))
    server.stored = {"metadata": {"name": "n", "resourceVersion": "7"}}
    cluster = LiveCluster(client(server), ObjectCache(), "me", lambda: True, OperatorMetrics())
    with pytest.raises(AlreadyExistsError):
        await cluster.create(NODES, {"metadata": {"name": "n"}})
    assert cluster.get(NODES, "n") == server.stored


async def test_one_renewal_that_hangs_does_not_cost_the_lease() -> None:
    class Slow(Server):
        hung = 0

        async def replace(self, resource: ResourceType, body: Object) -> Object:
            if not self.hung:
                self.hung += 1
                await asyncio.sleep(60)
            return await super().replace(resource, body)

    server = Slow()
    leadership = Leadership(client(server), "weft-system", "me", lease_seconds=1.0, history=History())
    await leadership.acquire()
    keeping = asyncio.create_task(leadership.keep())
    await asyncio.sleep(1.3)
    assert server.hung
    assert not keeping.done()
    assert leadership.remaining_seconds() > 0
    keeping.cancel()


async def test_a_leader_notices_at_its_next_renewal_that_the_cluster_was_restored_from_a_backup() -> None:
    server, history = Server(), History()
    server.writes = 100
    leadership = Leadership(client(server), "weft-system", "me", 0.4, history)
    await leadership.acquire()
    keeping = asyncio.create_task(leadership.keep())
    assert server.stored is not None
    backup = {**server.stored, "metadata": {**server.stored["metadata"], "resourceVersion": "50"}}
    server.stored, server.writes = backup, 60
    async with asyncio.timeout(5):
        await history.went_back.wait()
    keeping.cancel()

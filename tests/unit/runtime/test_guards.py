"""Promises of leadership that are easily lost in a change; `make mutants` breaks each and runs these."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from weft.api.resources import ResourceType
from weft.cluster import NotFoundError, Object
from weft.runtime import leadership
from weft.runtime.client import KubeClient
from weft.runtime.history import History
from weft.runtime.leadership import Leadership


class Lease:
    """The API server as far as it concerns the Lease; each write takes `takes` seconds of the machine's clock."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.stored: Object | None = None
        self.takes = 0.0
        self.now = 1000.0
        self.reads = 0
        self.on_read: Any = lambda: None
        patch.setattr(leadership, "boottime", lambda: self.now)

        yield_once = asyncio.sleep

        async def sleep(seconds: float) -> None:
            self.now += seconds
            await yield_once(0)

        patch.setattr(leadership.asyncio, "sleep", sleep)

    async def get(
        self, resource: ResourceType, name: str, namespace: str = "", subresource: str = ""
    ) -> Object:
        self.reads += 1
        self.on_read()
        if self.stored is None:
            raise NotFoundError(404, "NotFound", name)
        return self.stored

    async def create(self, resource: ResourceType, body: Object, *, dry_run: bool = False) -> Object:
        return await self.replace(resource, body)

    async def replace(self, resource: ResourceType, body: Object) -> Object:
        self.now += self.takes
        version = str(int((self.stored or body)["metadata"].get("resourceVersion", "0")) + 1)
        self.stored = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
        return self.stored


def replica(lease: Lease, name: str) -> Leadership:
    return Leadership(cast(KubeClient, lease), "weft-system", name, 10.0, History())


async def test_a_lease_is_over_for_its_holder_before_it_is_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lease = Lease(monkeypatch)
    lease.takes = 4.0
    mine = replica(lease, "me")
    await mine.acquire()
    # It may have been stored at the beginning of those four seconds.
    assert mine.remaining_seconds() == 6.0


async def test_a_lease_is_not_taken_from_a_holder_that_renews_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(monkeypatch)
    await replica(lease, "other").acquire()
    renewals = 20

    def renew() -> None:
        nonlocal renewals
        if lease.stored is not None and renewals:
            renewals -= 1
            metadata = lease.stored["metadata"]
            metadata = {**metadata, "resourceVersion": str(int(metadata["resourceVersion"]) + 1)}
            lease.stored = {**lease.stored, "metadata": metadata}

    lease.on_read = renew
    mine = replica(lease, "me")
    began = lease.now
    await mine.acquire()
    assert renewals == 0
    # Twenty looks, two seconds apart, and then as long as the lease lasts.
    assert lease.now - began >= 40.0 + 8.0
    assert mine.took_over

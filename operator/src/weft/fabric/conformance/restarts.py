"""A driver, or the manager, that ended and began anew."""

from __future__ import annotations

import asyncio

import pytest

from weft.fabric.conformance.proxy import Proxy
from weft.fabric.conformance.rig import Rig, conformance, whole
from weft.fabric.errors import FabricError


class Restarts:
    """Nothing that matters is in the driver's memory alone."""

    @conformance
    async def test_a_new_driver_sees_and_detaches_what_another_attached(self, rig: Rig) -> None:
        async with rig.bench.connected() as earlier:
            await rig.attach(*rig.devices[:2], driver=earlier)
        async with rig.bench.connected() as later:
            assert frozenset(rig.devices[:2]) <= await later.attached(rig.host)
            await rig.detach(*rig.devices[:2], driver=later)
        assert await rig.where(*rig.devices) == set()

    @conformance
    async def test_a_driver_that_has_read_nothing_yet_can_attach(self, rig: Rig) -> None:
        async with rig.bench.connected() as fresh:
            await rig.attach(rig.devices[0], driver=fresh)

    @conformance
    async def test_what_another_changed_is_shown_by_the_next_reading(self, rig: Rig) -> None:
        async with rig.bench.connected() as another:
            await rig.attach(rig.devices[0], driver=another)
            inventory = await whole(rig.driver)
            assert (rig.devices[0], rig.host) in inventory.attachments
            await rig.detach(rig.devices[0], driver=another)
        assert rig.devices[0] not in await rig.driver.attached(rig.host)

    @conformance
    async def test_connections_that_all_broke_are_made_anew(self, rig: Rig) -> None:
        if rig.bench.address is None:
            pytest.skip("the endpoint is not plain HTTP: the suite cannot come between")
        async with (
            Proxy(rig.bench.address) as proxy,
            rig.bench.connected(endpoint=rig.bench.elsewhere(proxy.port)) as driver,
        ):
            await whole(driver)
            await proxy.break_all()
            await _soon(rig, driver.attached, rig.host)
            await proxy.break_all()
            await _soon(rig, driver.inventory)

    @conformance
    async def test_a_manager_that_restarted_is_worked_with_by_the_same_driver(self, rig: Rig) -> None:
        if rig.bench.restart is None:
            pytest.skip("the bench has no way to restart the manager")
        await rig.attach(rig.devices[0])
        await asyncio.to_thread(rig.bench.restart)
        await _soon(rig, rig.driver.inventory)
        assert rig.devices[0] in await rig.driver.attached(rig.host)
        await rig.detach(rig.devices[0])
        await rig.attach(rig.devices[1])


async def _soon(rig: Rig, call, *arguments: str) -> None:  # type: ignore[no-untyped-def]
    """The call succeeds, at once or after a few refusals."""
    loop = asyncio.get_running_loop()
    end = loop.time() + rig.bench.patience_seconds
    while True:
        try:
            await call(*arguments)
            return
        except FabricError as error:
            if loop.time() > end:
                pytest.fail(f"it did not recover: {type(error).__name__}: {error}")
        await asyncio.sleep(0.05)

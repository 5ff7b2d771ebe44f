"""A device has one host at most, whatever the manager would accept."""

from __future__ import annotations

from weft.fabric.conformance.rig import Rig, conformance, refusal, whole
from weft.fabric.errors import Conflict


class Exclusivity:
    """What is attached elsewhere is refused before anything is changed."""

    @conformance
    async def test_a_device_that_another_host_has_is_a_conflict_and_stays_there(self, rig: Rig) -> None:
        await rig.attach(rig.devices[0])
        with refusal(Conflict):
            await rig.driver.attach(rig.key(), rig.other, frozenset({rig.devices[0]}))
        assert await rig.where(*rig.devices) == {(rig.devices[0], rig.host)}

    @conformance
    async def test_it_is_one_too_for_a_driver_that_did_not_attach_it(self, rig: Rig) -> None:
        await rig.attach(rig.devices[0])
        async with rig.bench.connected() as fresh:
            await whole(fresh)
            with refusal(Conflict):
                await fresh.attach(rig.key(), rig.other, frozenset({rig.devices[0]}))
        assert await rig.where(*rig.devices) == {(rig.devices[0], rig.host)}

    @conformance
    async def test_it_is_one_too_for_a_driver_that_read_before_another_attached_it(self, rig: Rig) -> None:
        async with rig.bench.connected() as earlier:
            await whole(earlier)
            await rig.attach(rig.devices[0])
            with refusal(Conflict):
                await earlier.attach(rig.key(), rig.other, frozenset({rig.devices[0]}))
        assert await rig.where(*rig.devices) == {(rig.devices[0], rig.host)}

    @conformance
    async def test_of_several_devices_none_is_attached_when_one_is_elsewhere(self, rig: Rig) -> None:
        await rig.attach(rig.devices[0])
        with refusal(Conflict):
            await rig.driver.attach(rig.key(), rig.other, frozenset(rig.devices))
        assert await rig.where(*rig.devices) == {(rig.devices[0], rig.host)}

    @conformance
    async def test_a_detach_from_one_host_leaves_the_device_of_another(self, rig: Rig) -> None:
        await rig.attach(rig.devices[0])
        await rig.detach(rig.devices[0], host=rig.other)
        assert await rig.where(*rig.devices) == {(rig.devices[0], rig.host)}

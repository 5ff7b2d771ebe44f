"""What each call of a driver does when all is well."""

from __future__ import annotations

import asyncio

from weft.fabric.conformance.rig import Rig, conformance, find, whole
from weft.fabric.driver import Capabilities, DeviceKind
from weft.fabric.errors import Busy, Conflict, OutcomeUnknown, Transient, Unsupported


class Contract:
    """Inventory, attach, detach: what they show, and that they may be repeated."""

    @conformance
    async def test_an_inventory_names_each_device_and_each_host_once_and_is_consistent(
        self, rig: Rig
    ) -> None:
        inventory = rig.before
        devices = [device.id for device in inventory.devices]
        hosts = [host.id for host in inventory.hosts]
        assert len(devices) == len(set(devices)), "a device is listed twice"
        assert len(hosts) == len(set(hosts)), "a host is listed twice"
        for name in (*devices, *hosts):
            assert isinstance(name, str)
            assert 0 < len(name) <= 256, f"{name!r} is no name"
            assert name.isprintable(), f"{name!r} is no name"
        for device in inventory.devices:
            assert isinstance(device.kind, DeviceKind)
            assert isinstance(device.capacity_bytes, int)
            assert device.capacity_bytes >= 0
            assert all(isinstance(k, str) and isinstance(v, str) for k, v in device.attributes.items())
            assert device.attributes.get("type"), f"{device.id} says no type (GPU, CXL, NVMe...) to select by"
            assert device.reachable_hosts is None or device.reachable_hosts <= set(hosts)
        assert {device for device, _ in inventory.attachments} <= set(devices)
        assert {host for _, host in inventory.attachments} <= set(hosts)
        assert inventory.complete is not bool(inventory.unread), "complete, and something is unread"

    @conformance
    async def test_two_readings_of_a_fabric_that_did_not_change_are_alike(self, rig: Rig) -> None:
        again = await whole(rig.driver)
        for part in ("devices", "hosts"):
            now, then = (
                {each.id: each for each in getattr(reading, part)} for reading in (again, rig.before)
            )
            assert now == then, part
        assert set(again.attachments) == set(rig.before.attachments)
        assert again.service == rig.before.service

    @conformance
    async def test_what_is_attached_is_shown_by_attached_and_by_the_next_inventory(self, rig: Rig) -> None:
        device = rig.devices[0]
        assert rig.before.shows_absence(device, rig.host)
        await rig.attach(device)
        inventory = await whole(rig.driver)
        assert (device, rig.host) in inventory.attachments
        assert not inventory.shows_absence(device, rig.host)
        assert inventory.shows_absence(device, rig.other)
        await rig.detach(device)
        inventory = await whole(rig.driver)
        assert (device, rig.host) not in inventory.attachments
        assert inventory.shows_absence(device, rig.host)

    @conformance
    async def test_a_reading_may_be_asked_to_begin_with_devices_whatever_they_are_called(
        self, rig: Rig
    ) -> None:
        inventory = await rig.driver.inventory(frozenset({rig.devices[0], "no-such-device"}))
        assert rig.devices[0] in {device.id for device in inventory.devices}

    @conformance
    async def test_several_devices_are_attached_together_and_one_of_them_detached_alone(
        self, rig: Rig
    ) -> None:
        rig.needs_parts()
        await rig.attach(*rig.devices)
        await rig.detach(rig.devices[1])
        left = set(rig.devices) - {rig.devices[1]}
        assert await rig.where(*rig.devices) == {(device, rig.host) for device in left}

    @conformance
    async def test_attaching_what_is_there_already_is_success(self, rig: Rig) -> None:
        key = rig.key()
        await rig.attach(rig.devices[0], key=key)
        await rig.attach(rig.devices[0], key=key)
        await rig.attach(rig.devices[0])
        assert await rig.where(*rig.devices) == {(rig.devices[0], rig.host)}

    @conformance
    async def test_attaching_what_is_there_together_with_what_is_not_is_success(self, rig: Rig) -> None:
        rig.needs_parts()
        await rig.attach(rig.devices[0])
        await rig.attach(*rig.devices[:2])
        assert await rig.where(*rig.devices) == {(device, rig.host) for device in rig.devices[:2]}

    @conformance
    async def test_detaching_what_is_not_there_is_success(self, rig: Rig) -> None:
        await rig.detach(rig.devices[0])
        await rig.attach(rig.devices[0])
        key = rig.key()
        await rig.detach(rig.devices[0], key=key)
        await rig.detach(rig.devices[0], key=key)
        assert await rig.where(*rig.devices) == set()

    @conformance
    async def test_an_operation_may_have_any_printable_key(self, rig: Rig) -> None:
        names = "-".join(f"GPU_{number}.é/x y" for number in range(4))
        for key in (f"{rig.key()}-release", f"{rig.key()}-{names}"):
            await rig.attach(rig.devices[0], key=key)
            await rig.detach(rig.devices[0], key=key)

    @conformance
    async def test_an_operation_that_ended_is_not_found_running_under_its_key(self, rig: Rig) -> None:
        key = rig.key()
        assert await find(rig.driver, key) is None
        await rig.attach(rig.devices[0], key=key)
        found = await find(rig.driver, key)
        assert found is None or found.phase.is_terminal

    @conformance
    async def test_changes_of_one_host_at_the_same_time_lose_none(self, rig: Rig) -> None:
        rig.needs_parts()
        calls = [rig.driver.attach(rig.key(), rig.host, frozenset({device})) for device in rig.devices]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        fine = (Busy, Conflict, Transient, OutcomeUnknown)
        for device, answer in zip(rig.devices, answers, strict=True):
            assert not isinstance(answer, BaseException) or isinstance(answer, fine), repr(answer)
            # What was refused or is not known may be repeated.
            await rig.attach(device)
        assert await rig.where(*rig.devices) == {(device, rig.host) for device in rig.devices}

    @conformance
    async def test_a_call_that_its_caller_gave_up_leaves_the_driver_usable(self, rig: Rig) -> None:
        for call in (rig.driver.inventory(), rig.driver.attach(rig.key(), rig.host, frozenset(rig.devices))):
            task = asyncio.ensure_future(call)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await rig.attach(rig.devices[0])

    @conformance
    async def test_capabilities_are_as_the_calls_behave(self, rig: Rig) -> None:
        capabilities = await rig.driver.capabilities()
        assert isinstance(capabilities, Capabilities)
        for write in capabilities.writes:
            assert isinstance(write.idiom, str)
            assert 0 < len(write.idiom) <= 63
            assert write.evidence, f"{write.idiom}: without evidence"
        try:
            ended = await rig.driver.revoke_other_sessions()
        except Unsupported:
            assert not capabilities.revoke_sessions, "revoke_sessions is promised and Unsupported"
        else:
            assert ended >= 0

    @conformance
    async def test_a_driver_may_be_closed_twice_and_before_it_was_used(self, rig: Rig) -> None:
        async with rig.bench.connected():
            pass
        async with rig.bench.connected() as used:
            await used.attached(rig.host)
            await used.close()

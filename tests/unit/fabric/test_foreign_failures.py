"""Managers of which a part does not answer: that part is missing, and everything else is there."""

import pytest

from support.replay import BLOCKS, SYSTEMS, Replay, Tree, block, case, collection, rack, reading, system
from weft.fabric.errors import AuthFailed, Conflict, FabricError, Unsupported

pytestmark = pytest.mark.virtual_time


def gpus(count: int) -> list[Tree]:
    return [block(f"{BLOCKS}/gpu-{n:03}") for n in range(count)]


def broken(tree: Tree, *paths: str, status: int = 500) -> Tree:
    return tree | {path: {"STATUS": status} for path in paths}


async def test_six_broken_blocks_cost_six_devices() -> None:
    async with reading(case("six-broken-blocks")) as (_, driver):
        read = await driver.inventory()
    lost = {f"gpu-{n}" for n in (3, 5, 7, 9, 11, 13)}
    assert {d.id for d in read.devices} == {f"gpu-{n}" for n in range(40)} - lost
    assert len(read.hosts) == 2
    assert not read.complete
    assert read.unread.devices == lost
    assert (read.unread.hosts, read.unread.device_list, read.unread.host_list) == (frozenset(), False, False)


async def test_a_block_that_never_answers_does_not_keep_the_release_of_another_from_being_believed() -> None:
    async with reading(case("stuck-release")) as (manager, driver):
        manager.patch = lambda path, body: 405
        await driver.inventory()
        with pytest.raises(Unsupported):
            await driver.attach("a", "sled-0", frozenset({"gpu-0"}))
        read = await driver.inventory()
    assert read.unread.devices == {"gpu-2"}
    assert read.shows_absence("gpu-0", "sled-0")
    assert not read.shows_absence("gpu-2", "sled-0")


@pytest.mark.parametrize("status", [403, 404, 500, 501, 503])
async def test_a_block_that_never_answers_costs_that_block(status: int) -> None:
    tree = broken(
        rack(*gpus(4), system(f"{SYSTEMS}/a"), system(f"{SYSTEMS}/b")), f"{BLOCKS}/gpu-001", status=status
    )
    async with reading(tree) as (_, driver):
        for _ in range(2):
            read = await driver.inventory()
            assert [d.id for d in read.devices] == ["gpu-000", "gpu-002", "gpu-003"]
            assert read.unread.devices == {"gpu-001"}
            assert "gpu-001" in read.problems[0]
            # Of the others this reading is evidence.
            assert read.shows_absence("gpu-002", "a")
            assert not read.shows_absence("gpu-001", "a")


@pytest.mark.parametrize("status", [404, 500])
async def test_a_host_that_never_answers_costs_that_host(status: int) -> None:
    tree = broken(
        rack(*gpus(2), system(f"{SYSTEMS}/a"), system(f"{SYSTEMS}/b")), f"{SYSTEMS}/a", status=status
    )
    async with reading(tree) as (_, driver):
        read = await driver.inventory()
    assert [h.id for h in read.hosts] == ["b"]
    assert read.unread.hosts == {"a"}
    assert read.shows_absence("gpu-000", "b")
    assert not read.shows_absence("gpu-000", "a")


async def test_a_component_that_never_answers_costs_its_device() -> None:
    tree = broken(rack(*gpus(2)), f"{BLOCKS}/gpu-000/Processors/1")
    async with reading(tree) as (_, driver):
        read = await driver.inventory()
    assert [d.id for d in read.devices] == ["gpu-001"]
    assert read.unread.devices == {"gpu-000"}


async def test_what_was_read_before_stays_while_it_cannot_be_read() -> None:
    at = f"{BLOCKS}/gpu-000"
    tree = rack(*gpus(2), system(f"{SYSTEMS}/a", at), system(f"{SYSTEMS}/b"))
    tree[at]["Links"]["ComputerSystems"] = [{"@odata.id": f"{SYSTEMS}/a"}]
    async with reading(tree) as (manager, driver):
        whole = await driver.inventory()
        assert whole.complete
        manager.tree = broken(tree, at, f"{SYSTEMS}/a")
        read = await driver.inventory()
    assert (read.devices, read.hosts, read.attachments) == (whole.devices, whole.hosts, whole.attachments)
    assert (read.unread.devices, read.unread.hosts) == ({"gpu-000"}, {"a"})


@pytest.mark.parametrize(
    ("path", "unread"),
    [(BLOCKS, ("device_list",)), (SYSTEMS, ("host_list",)), ("/redfish/v1/Zones", ("topology",))],
)
async def test_a_collection_that_fails_costs_that_collection(path: str, unread: tuple[str, ...]) -> None:
    tree = rack(*gpus(2))
    tree["/redfish/v1/CompositionService"]["ResourceZones"] = {"@odata.id": "/redfish/v1/Zones"}
    tree["/redfish/v1/Zones"] = collection("/redfish/v1/Zones", [])
    async with reading(broken(tree, path)) as (_, driver):
        read = await driver.inventory()
    flags = ("device_list", "host_list", "topology")
    assert tuple(flag for flag in flags if getattr(read.unread, flag)) == unread
    assert bool(read.devices) == (path != BLOCKS)
    assert bool(read.hosts) == (path != SYSTEMS)


async def test_a_composition_service_that_fails_costs_the_devices_until_it_answers() -> None:
    tree = rack(*gpus(2))
    async with reading(broken(tree, "/redfish/v1/CompositionService")) as (manager, driver):
        read = await driver.inventory()
        assert ([h.id for h in read.hosts], read.devices) == (["sled-0"], ())
        assert not read.complete
        assert "CompositionService cannot be read" in read.no_devices
        manager.tree = tree
        assert len((await driver.inventory()).devices) == 2


async def test_many_failures_in_a_row_do_not_keep_the_rest_unread_for_ever() -> None:
    paths = [f"{BLOCKS}/gpu-{n:03}" for n in range(80)]
    async with reading(broken(rack(*gpus(100)), *paths)) as (manager, driver):
        first = await driver.inventory()
        assert "gpu-099" in first.unread.devices
        manager.requests.clear()
        second = await driver.inventory()
        assert [d.id for d in second.devices] == [f"gpu-{n:03}" for n in range(80, 100)]


async def test_a_manager_that_is_silent_is_left_after_a_few_requests() -> None:
    manager = Replay(rack(*gpus(60)))
    manager.silent = {f"{BLOCKS}/gpu-{n:03}" for n in range(60)}
    async with reading(manager, request_timeout_seconds=0.3, max_in_flight=4) as (_, driver):
        read = await driver.inventory()
        assert len(read.unread.devices) == 60
        assert len(manager.asked("gpu-")) < 15
        assert any("in a row" in problem for problem in read.problems)


async def test_one_silent_block_costs_that_block() -> None:
    manager = Replay(rack(*gpus(20)))
    manager.silent = {f"{BLOCKS}/gpu-003"}
    async with reading(manager, request_timeout_seconds=0.5) as (_, driver):
        read = await driver.inventory()
    assert len(read.devices) == 19
    assert read.unread.devices == {"gpu-003"}


async def test_a_manager_of_which_nothing_can_be_listed_is_an_error() -> None:
    async with reading(broken(rack(*gpus(2)), BLOCKS, SYSTEMS)) as (_, driver):
        with pytest.raises(FabricError):
            await driver.inventory()


async def test_a_manager_that_forbids_its_collections_is_an_error_of_credentials() -> None:
    async with reading(broken(rack(*gpus(2)), BLOCKS, status=403)) as (_, driver):
        with pytest.raises(AuthFailed):
            await driver.inventory()


async def test_a_manager_with_neither_systems_nor_blocks_is_unsupported() -> None:
    async with reading({"/redfish/v1/": {"@odata.id": "/redfish/v1/", "Id": "Root"}}) as (_, driver):
        with pytest.raises(Unsupported, match="no systems and no resource blocks"):
            await driver.inventory()


async def test_a_side_that_the_manager_does_not_keep_does_not_make_readings_incomplete() -> None:
    async with reading(case("system-side-only")) as (manager, driver):

        def system_only(path: str, body: Tree) -> int:
            manager.tree[path]["Links"]["ResourceBlocks"] = body["Links"]["ResourceBlocks"]
            return 204

        manager.patch = system_only
        await driver.inventory()
        await driver.attach("a", "sled-0", frozenset({"gpu-0"}))
        read = await driver.inventory()
        assert read.attachments == (("gpu-0", "sled-0"),)
        assert read.complete
        # The block says that it is free: the host that has it knows better.
        with pytest.raises(Conflict, match="gpu-0 is attached to sled-0"):
            await driver.attach("b", "sled-1", frozenset({"gpu-0"}))
        assert [path for method, path in manager.requests if method == "PATCH"] == [f"{SYSTEMS}/sled-0"]
        await driver.detach("c", "sled-0", frozenset({"gpu-0"}))
        await driver.attach("d", "sled-1", frozenset({"gpu-0"}))
        assert await driver.attached("sled-1") == {"gpu-0"}

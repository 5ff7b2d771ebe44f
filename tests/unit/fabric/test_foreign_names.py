"""Names of other people's managers: whatever they call their devices and hosts, those are found, bound and released."""

import re

import pytest

from support.replay import BLOCKS, SYSTEMS, Tree, block, case, link, rack, reading, system
from weft.api import attachment_name
from weft.fabric.driver import not_used

KUBERNETES_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
NAMES = {
    "OffloadBlock0": f"{BLOCKS}/OffloadBlock0",
    "gpu_0.slot:3": f"{BLOCKS}/gpu_0.slot:3",
    "GPU 0": f"{BLOCKS}/GPU%200",
    "GPU 1": f"{BLOCKS}/GPU 1",
    "tray/3/gpu": f"{BLOCKS}/tray%2F3%2Fgpu",
    "tray/4/gpu": f"{BLOCKS}/tray/4/gpu",
    "b1f0c8a2-5d2e-4b7a-9f53-0f6f0e3c1d2a": f"{BLOCKS}/b1f0c8a2-5d2e-4b7a-9f53-0f6f0e3c1d2a",
    "Beschleuniger-Ä": f"{BLOCKS}/Beschleuniger-Ä",
    "加速器-0": f"{BLOCKS}/%E5%8A%A0%E9%80%9F%E5%99%A8-0",
    "x" * 256: f"{BLOCKS}/" + "x" * 256,
}


@pytest.mark.parametrize(("id", "path"), NAMES.items())
async def test_a_device_of_any_name_is_found_attached_and_detached(id: str, path: str) -> None:
    async with reading(rack(block(path, Id=id), block(f"{BLOCKS}/other"))) as (_, driver):
        read = await driver.inventory()
        assert {d.id for d in read.devices} == {id, "other"}
        assert (read.complete, read.problems) == (True, ())
        await driver.attach(f"bind-{id}", "sled-0", frozenset({id}))
        assert await driver.attached("sled-0") == {id}
        assert (await driver.inventory()).attachments == ((id, "sled-0"),)
        await driver.detach(f"release-{id}", "sled-0", frozenset({id}))
        assert (await driver.inventory()).attachments == ()


@pytest.mark.parametrize("id", ["Node_7", "chassis 1/sled 2", "ホスト"])
async def test_a_host_of_any_name_is_bound_to(id: str) -> None:
    tree = rack(block(f"{BLOCKS}/gpu-0"), system(f"{SYSTEMS}/7", Id=id))
    async with reading(tree) as (_, driver):
        assert [h.id for h in (await driver.inventory()).hosts] == [id]
        await driver.attach("a", id, frozenset({"gpu-0"}))
        assert (await driver.inventory()).attachments == (("gpu-0", id),)


async def test_one_id_in_two_chassis_is_two_devices() -> None:
    chassis = "/redfish/v1/Chassis"
    tree = rack(block(f"{chassis}/A/Blocks/gpu-0"), block(f"{chassis}/B/Blocks/gpu-0"))
    async with reading(tree) as (_, driver):
        read = await driver.inventory()
        assert [d.id for d in read.devices] == ["Chassis/A/Blocks/gpu-0", "Chassis/B/Blocks/gpu-0"]
        await driver.attach("a", "sled-0", frozenset({"Chassis/B/Blocks/gpu-0"}))
        assert await driver.attached("sled-0") == {"Chassis/B/Blocks/gpu-0"}
        assert (await driver.inventory()).attachments == (("Chassis/B/Blocks/gpu-0", "sled-0"),)


async def test_one_id_at_two_services_is_two_hosts() -> None:
    tree = rack(system(f"{SYSTEMS}/1"), system("/redfish/v1/Aggregated/2/Systems/1"))
    async with reading(tree) as (_, driver):
        assert [h.id for h in (await driver.inventory()).hosts] == ["Aggregated/2/Systems/1", "Systems/1"]


async def test_a_device_keeps_its_name_when_a_second_one_with_its_id_turns_up() -> None:
    first, second = "/redfish/v1/Chassis/A/Blocks/gpu-0", "/redfish/v1/Chassis/B/Blocks/gpu-0"
    async with reading(rack(block(first))) as (manager, driver):
        assert [d.id for d in (await driver.inventory()).devices] == ["gpu-0"]
        manager.tree |= block(second)
        manager.tree[BLOCKS]["Members"].insert(0, link(second))
        manager.tree[BLOCKS]["Members@odata.count"] = 2
        read = await driver.inventory()
        assert [d.id for d in read.devices] == ["Chassis/B/Blocks/gpu-0", "gpu-0"]
        await driver.attach("a", "sled-0", frozenset({"gpu-0"}))
        assert manager.tree[SYSTEMS + "/sled-0"]["Links"]["ResourceBlocks"] == [link(first)]


async def test_names_as_dmtf_gives_them_are_taken() -> None:
    async with reading(case("ids-not-dns-labels")) as (_, driver):
        read = await driver.inventory()
        assert [d.id for d in read.devices] == ["OffloadBlock0", "OffloadBlock1", "OffloadBlock2"]


@pytest.mark.parametrize("id", ["x" * 257, "gpu\n0", "gpu\u202e0"])
async def test_an_id_that_no_object_can_hold_is_not_used_and_told(id: str) -> None:
    tree: Tree = rack(block(f"{BLOCKS}/1", Id=id), block(f"{BLOCKS}/2"))
    async with reading(tree) as (_, driver):
        read = await driver.inventory()
        assert [d.id for d in read.devices] == ["2"]
        assert not_used(read) == "1 block not used: 1 has no usable Id"


def test_objects_get_names_that_kubernetes_takes_and_no_two_share() -> None:
    ids = [
        *NAMES,
        "GPU-0",
        "gpu-0",
        "Gpu-0",
        "gpu.0",
        "gpu_0",
        "gpu/0",
        "gpu 0",
        "Ä",
        "ä",
        "器",
        "速",
        "gpu-0-" + "x" * 250,
    ]
    names = [attachment_name("f" * 63, id) for id in ids]
    assert len(set(names)) == len(ids)
    assert [name for name in names if not KUBERNETES_NAME.fullmatch(name) or len(name) > 253] == []
    assert attachment_name("rack", "gpu-0") == "rack.gpu-0"
    assert attachment_name("rack", "OffloadBlock0").startswith("rack.offloadblock0.")
    assert attachment_name("rack", "Gerät 1").startswith("rack.gerat-1.")

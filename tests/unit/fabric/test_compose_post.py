"""Managers that make systems of resource blocks by POST, and end them by DELETE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from support.foreign import Foreign, message
from support.replay import BLOCKS, SYSTEMS, Tree, block, collection, link, rack, reading, system
from weft.fabric.driver import OperationPhase, not_used
from weft.fabric.errors import Conflict, NotFound, OutcomeUnknown, Unsupported
from weft.fabric.redfish import RedfishDriver
from weft.fabric.redfish.writes.compose_post import system_name

BLADES = (f"{BLOCKS}/blade-0", f"{BLOCKS}/blade-1")
ZONE = "/redfish/v1/CompositionService/ResourceZones/1"


def gpu(number: int) -> str:
    return f"{BLOCKS}/gpu-{number}"


def gpus(*numbers: int) -> frozenset[str]:
    return frozenset(f"gpu-{n}" for n in numbers)


def compute(path: str, type_: str = "Compute") -> Tree:
    cpu = {**link(f"{path}/Processors/cpu"), "Id": "cpu", "ProcessorType": "CPU"}
    body = block(path, ResourceBlockType=[type_], Processors=[link(f"{path}/Processors/cpu")])[path]
    return {path: body, f"{path}/Processors/cpu": cpu}


def offer(*zones: str, request: str = "") -> Tree:
    """The annotation of a collection or zone of which systems can be composed."""
    capability: Tree = {"UseCase": "ComputerSystemComposition", "Links": {"TargetCollection": link(SYSTEMS)}}
    if zones:
        capability["Links"]["RelatedItem"] = [link(zone) for zone in zones]
    if request:
        capability["CapabilitiesObject"] = link(request)
    return {"@Redfish.CollectionCapabilities": {"Capabilities": [capability]}}


def manager(says: str = "collection", type_: str = "Compute", made: str = "Composed") -> Foreign:
    """Two blades and four GPUs; no system until a client makes one."""
    tree = rack(*(compute(path, type_) for path in BLADES), *(block(gpu(n)) for n in range(4)))
    del tree[f"{SYSTEMS}/sled-0"]
    tree[SYSTEMS] = collection(SYSTEMS, [])
    served = Foreign(tree)
    served.composes = made
    if says == "collection":
        tree[SYSTEMS] |= offer()
    elif says == "zone":
        zones = ZONE.rpartition("/")[0]
        tree["/redfish/v1/CompositionService"]["ResourceZones"] = link(zones)
        tree[zones] = collection(zones, [ZONE])
        members = [link(uri) for uri in (*BLADES, *(gpu(n) for n in range(4)))]
        tree[ZONE] = {**link(ZONE), "Id": "1", "Links": {"ResourceBlocks": members}} | offer()
    elif says == "allow":
        served.allow[SYSTEMS] = "GET, HEAD, POST"
    return served


async def idioms(driver: RedfishDriver) -> list[str]:
    return [write.idiom for write in (await driver.capabilities()).writes]


@pytest.mark.parametrize("says", ["collection", "zone", "allow"])
@pytest.mark.parametrize("kept", ["both", "system", "block"])
async def test_a_compute_block_is_the_host_before_during_and_after(says: str, kept: str) -> None:
    served = manager(says)
    served.kept = kept
    async with reading(served) as (_, driver):
        read = await driver.inventory()
        assert [(h.id, h.closed, h.uuid) for h in read.hosts] == [("blade-0", "", ""), ("blade-1", "", "")]
        assert not_used(read) == "2 blocks not used: 2 are of hosts"
        assert await idioms(driver) == ["ComposeByPost"]
        done = await driver.attach("bind-1", "blade-0", gpus(0, 1))
        assert done.phase is OperationPhase.SUCCEEDED
        assert await driver.attached("blade-0") == gpus(0, 1)
        read = await driver.inventory()
        assert read.attachments == (("gpu-0", "blade-0"), ("gpu-1", "blade-0"))
        assert [h.id for h in read.hosts] == ["blade-0", "blade-1"]
        assert (read.hosts[0].uuid, read.complete) == ("uuid-1", True)
        assert served.tree[served.made[0]]["Name"] == "weft-bind-1"
        await driver.detach("release-1", "blade-0", gpus(0, 1))
        assert await driver.attached("blade-0") == frozenset()
        assert (served.made, (await driver.inventory()).attachments) == ([], ())


@pytest.mark.parametrize("made", ["Composed", "Physical"])
async def test_blades_of_type_computersystem_are_hosts_as_well_whatever_their_system_is_called(
    made: str,
) -> None:
    """HPE's OneView toolkit: blocks of type ComputerSystem, and systems of type Physical."""
    served = manager(type_="ComputerSystem", made=made)
    async with reading(served) as (_, driver):
        await driver.attach("bind-1", "blade-1", gpus(2))
        again = RedfishDriver(served.connection())
        assert await again.attached("blade-1") == gpus(2)
        await again.detach("release", "blade-1", gpus(2))
        assert served.made == []
        await again.close()


async def test_a_blade_that_another_client_has_reserved_is_closed_and_nothing_is_made_of_it() -> None:
    served = manager()
    served.tree[BLADES[0]]["CompositionStatus"] = {"Reserved": True, "CompositionState": "Unused"}
    async with reading(served) as (_, driver):
        closed = {host.id: host.closed for host in (await driver.inventory()).hosts}
        assert "its compute block is reserved by another client of the manager" in closed["blade-0"]
        assert closed["blade-1"] == ""
        with pytest.raises(Unsupported, match="reserved by another client"):
            await driver.attach("bind-1", "blade-0", gpus(0))
        assert served.made == []


async def test_a_block_with_a_system_of_its_own_beneath_it_is_a_host_that_can_be_made() -> None:
    """As HPE's OneView toolkit has it: the system stands beneath the block, and not among the manager's systems."""
    served = manager(type_="ComputerSystem", made="Physical")
    for blade in BLADES:
        served.tree[blade] |= {"Processors": [], "ComputerSystems": [link(f"{blade}/Systems/1")]}
    async with reading(served) as (_, driver):
        read = await driver.inventory()
        assert [(h.id, h.closed) for h in read.hosts] == [("blade-0", ""), ("blade-1", "")]
        await driver.attach("bind-1", "blade-1", gpus(2))
        assert (await driver.inventory()).attachments == (("gpu-2", "blade-1"),)
        await driver.detach("release", "blade-1", gpus(2))
        assert served.made == []


async def test_the_id_that_a_capabilities_object_asks_for_is_given_with_the_block_of_that_id() -> None:
    served = manager("none")
    template, request = f"{BLOCKS}/template-7", f"{SYSTEMS}/template-7"
    card = [link("/redfish/v1/x")]
    served.tree |= block(template, ResourceBlockType=["Network"], Processors=[], EthernetInterfaces=card)
    served.tree[BLOCKS]["Members"].append(link(template))
    served.tree[BLOCKS]["Members@odata.count"] += 1
    served.tree[SYSTEMS] |= offer(request=request)
    served.tree[request] = {
        **link(request),
        "Id": "template-7",
        "Id@Redfish.RequiredOnCreate": True,
        "Id@Redfish.AllowableValues": ["template-7"],
    }
    async with reading(served) as (_, driver):
        await driver.inventory()
        await driver.attach("bind-1", "blade-0", gpus(0))
        ((_, _, body),) = served.changes
        assert body["Id"] == "template-7"
        assert link(template) in body["Links"]["ResourceBlocks"]


async def test_a_manager_that_wants_an_id_without_saying_so_gets_one() -> None:
    """DMTF's Redfish-Interface-Emulator."""
    served = manager()
    plain = served.make_system

    def strict(body: Any) -> web.Response:
        if "Id" not in body:
            return web.json_response("Missing attribute: Id", status=400)
        return plain(body)

    served.make_system = strict  # type: ignore[method-assign]
    async with reading(served) as (_, driver):
        await driver.attach("bind-1", "blade-0", gpus(0))
        assert served.made == [f"{SYSTEMS}/weft-bind-1"]
        assert await driver.attached("blade-0") == gpus(0)


@pytest.mark.parametrize(
    "answer",
    [lambda: web.Response(status=500), lambda: web.json_response(message("ResourceInUse"), status=200)],
    ids=["500", "200 with an error"],
)
@pytest.mark.parametrize("restarted", [True, False])
async def test_what_was_made_although_the_answer_says_no_is_found_before_a_second_post(
    answer: Callable[[], web.Response], restarted: bool
) -> None:
    served = manager()
    served.afterwards["POST", SYSTEMS] = answer
    async with reading(served) as (_, driver):
        with pytest.raises(OutcomeUnknown):
            await driver.attach("bind-1", "blade-0", gpus(0))
        other = RedfishDriver(served.connection()) if restarted else driver
        done = await other.attach("bind-1", "blade-0", gpus(0))
        assert done.phase is OperationPhase.SUCCEEDED
        assert len(served.changes) == 1
        await other.close()


@pytest.mark.parametrize("shows", [(), (3,)])
async def test_a_system_that_shows_its_devices_later_or_others_is_waited_for_and_no_second_one_is_made(
    shows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HPE's OneView toolkit answers while the profile is still applied, and asks for any drive of the same size."""
    served = manager()
    plain = served.make_system

    def early(body: Any) -> web.Response:
        blocks = [link(BLADES[1]), *(link(gpu(n)) for n in shows)]
        return plain({**body, "Links": {"ResourceBlocks": blocks}})

    monkeypatch.setattr(served, "make_system", early)
    async with reading(served) as (_, driver):
        await driver.attach("bind-1", "blade-1", gpus(2))
        said = "was made for this and does not show gpu-2 yet" + (", but gpu-3" if shows else "")
        with pytest.raises(OutcomeUnknown, match=said):
            await driver.attach("bind-1", "blade-1", gpus(2))
        with pytest.raises(Conflict, match="can only be made anew"):
            await driver.attach("another", "blade-1", gpus(2))
        served.set_blocks(served.made[0], [BLADES[1], gpu(2)])
        assert (await driver.attach("bind-1", "blade-1", gpus(2))).phase is OperationPhase.SUCCEEDED
        assert await driver.attached("blade-1") == gpus(2)
        assert len(served.made) == 1


async def test_an_answer_without_location_or_body_is_no_hindrance() -> None:
    served = manager()
    served.afterwards["POST", SYSTEMS] = lambda: web.Response(status=204)
    async with reading(served) as (_, driver):
        await driver.attach("bind-1", "blade-0", gpus(0))
        assert await driver.attached("blade-0") == gpus(0)


@pytest.mark.parametrize("kept", ["both", "system", "block"])
@pytest.mark.parametrize("restarted", [True, False])
async def test_a_device_in_another_system_is_a_conflict_and_nothing_is_made(
    kept: str, restarted: bool
) -> None:
    served = manager()
    served.kept = kept
    async with reading(served) as (_, driver):
        await driver.attach("bind-1", "blade-0", gpus(0))
        other = RedfishDriver(served.connection()) if restarted else driver
        with pytest.raises(Conflict, match=r"gpu-0 is attached to (blade-0|sys-1), not to blade-1"):
            await other.attach("bind-2", "blade-1", gpus(0, 1))
        assert len(served.made) == 1
        await other.close()


async def test_a_system_is_not_ended_while_it_has_a_device_that_was_not_asked_back() -> None:
    served = manager()
    async with reading(served) as (_, driver):
        await driver.attach("bind-1", "blade-0", gpus(0, 1))
        with pytest.raises(Conflict, match="also has gpu-1"):
            await driver.detach("release-1", "blade-0", gpus(0))
        assert served.blocks_of(served.made[0])
        with pytest.raises(Conflict, match="can only be made anew"):
            await driver.attach("bind-2", "blade-0", gpus(2))
        assert (await driver.inventory()).hosts[0].closed == ""
        await driver.detach("release-1", "blade-0", gpus(0, 1))
        assert served.made == []


async def test_a_refused_delete_is_told_and_leaves_the_devices_where_they_are() -> None:
    served = manager()
    async with reading(served) as (_, driver):
        await driver.attach("bind-1", "blade-0", gpus(0))
        served.answers["DELETE", served.made[0]] = lambda: web.json_response(
            message("ResourceCannotBeDeleted"), status=403
        )
        with pytest.raises(Unsupported):
            await driver.detach("release-1", "blade-0", gpus(0))
        assert await driver.attached("blade-0") == gpus(0)
        served.answers.clear()
        await driver.detach("release-1", "blade-0", gpus(0))
        assert await driver.attached("blade-0") == frozenset()


async def test_systems_that_were_there_before_are_closed_where_only_new_ones_can_be_made() -> None:
    served = manager()
    sled = f"{SYSTEMS}/sled-9"
    served.tree |= system(sled)
    served.tree[SYSTEMS]["Members"].append(link(sled))
    served.tree[SYSTEMS]["Members@odata.count"] = 1
    served.allow[f"{SYSTEMS}/"] = "GET, HEAD"
    async with reading(served) as (_, driver):
        hosts = {host.id: host.closed for host in (await driver.inventory()).hosts}
        assert hosts["blade-0"] == ""
        assert "its systems are not made of compute blocks by POST" in hosts["sled-9"]
        assert await idioms(driver) == ["ComposeByPost"]


async def test_a_machine_whose_own_block_is_in_it_stays_a_host_of_its_own_name() -> None:
    """Its system is not one that was made, and is changed by PATCH."""
    served = manager()
    sled = f"{SYSTEMS}/sled-9"
    served.tree |= system(sled, BLADES[0])
    served.tree[SYSTEMS]["Members"].append(link(sled))
    served.tree[SYSTEMS]["Members@odata.count"] = 1
    served.tree[BLADES[0]]["Links"]["ComputerSystems"] = [link(sled)]
    async with reading(served) as (_, driver):
        read = await driver.inventory()
        assert [h.id for h in read.hosts] == ["blade-1", "sled-9"]
        assert sorted(await idioms(driver)) == ["ComposeByPatch", "ComposeByPost"]


async def test_a_compute_block_that_is_in_two_systems_is_no_host_and_nothing_is_changed() -> None:
    served = manager()
    async with reading(served) as (_, driver):
        await driver.inventory()
        for n in (0, 1):
            served.make_system({"Id": f"x{n}", "Name": "-", "Links": {"ResourceBlocks": [link(BLADES[0])]}})
        with pytest.raises(NotFound, match="is no host"):
            await driver.attach("bind-1", "blade-0", gpus(0))
        assert served.changes == []
        assert "blade-0" not in [host.id for host in (await driver.inventory()).hosts]


async def test_a_conditional_delete_is_sent_without_its_condition_where_etags_are_useless() -> None:
    served = manager()
    served.etags = "weak"
    async with reading(served) as (_, driver):
        await driver.attach("bind-1", "blade-0", gpus(0))
        await driver.detach("release-1", "blade-0", gpus(0))
        assert served.made == []
        assert any("If-Match" in note for note in (await driver.capabilities()).notes)


def test_the_name_of_a_system_is_that_of_its_operation_and_fits() -> None:
    assert system_name("0f3a9c") == "weft-0f3a9c"
    long = system_name("op/" + "x" * 200)
    assert (len(long) <= 64, long) == (True, system_name("op/" + "x" * 200))
    assert long != system_name("op/" + "x" * 201)

"""What sushy, OpenStack's Redfish client, reads of a fabric manager, compared with the inventory it was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trustme
from sushy.resources import constants as common
from sushy.resources.compositionservice.constants import CompositionState
from sushy.resources.compositionservice.resourceblock import ResourceBlockCollection
from sushy.resources.compositionservice.resourcezone import ResourceZoneCollection
from sushy.resources.fabric.constants import EntityRole, EntityType

from weft.emulator.inventory import Device, DeviceType, World

BLOCKS = "/redfish/v1/CompositionService/ResourceBlocks"

TYPE_OF = {DeviceType.GPU: "Processor", DeviceType.CXL: "Memory", DeviceType.NVME: "Storage"}
ATTACH_FABRIC = {DeviceType.GPU: "pcie", DeviceType.CXL: "cxl", DeviceType.NVME: "nvmeof"}
FABRIC_TYPE = {
    "nvlink": common.Protocol.NVLINK,
    "rdma": common.Protocol.INFINI_BAND,
    "pcie": common.Protocol.PCIe,
    "nvmeof": common.Protocol.NVMe_OVER_FABRICS,
    "cxl": None,
}
ENTITY_TYPE = {
    DeviceType.GPU: EntityType.PROCESSOR,
    DeviceType.NVME: EntityType.DRIVE,
    DeviceType.CXL: None,
}


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A CA and a server's certificate for 127.0.0.1 signed by it: CA, certificate, key."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    files = (folder / "ca.pem", folder / "server.pem", folder / "server.key")
    for path, pem in zip(
        files, (authority.cert_pem, server.cert_chain_pems[0], server.private_key_pem), strict=True
    ):
        pem.write_to_path(path)
    return files


def ids(links: list[dict[str, str]]) -> set[str]:
    """Last segments of references."""
    return {item["@odata.id"].rsplit("/", 1)[1] for item in links}


def resource_blocks(service: Any) -> dict[str, Any]:
    """Every resource block, by id."""
    composition = service.get_composition_service()
    # `composition.resource_blocks` of sushy 5 hands over a method where its path belongs.
    path = composition.json["ResourceBlocks"]["@odata.id"]
    collection = ResourceBlockCollection(
        service._conn, path, redfish_version=service.redfish_version, root=service
    )
    return {block.identity: block for block in collection.get_members()}


def resource_zones(service: Any) -> list[Any]:
    """Every resource zone."""
    path = service.get_composition_service().json["ResourceZones"]["@odata.id"]
    collection = ResourceZoneCollection(
        service._conn, path, redfish_version=service.redfish_version, root=service
    )
    return list(collection.get_members())


def agree_on_blocks(service: Any, world: World, attached: dict[str, str]) -> None:
    """Every resource block, host blocks included, against the inventory and what is attached."""
    members = resource_blocks(service)
    assert set(members) == set(world.devices) | {f"host-{host}" for host in world.hosts}
    for name, device in world.devices.items():
        block, host = members[name], attached.get(name)
        composition = block.composition_status
        expected = CompositionState.COMPOSED if host else CompositionState.UNUSED
        assert (name, composition.composition_state) == (name, expected)
        assert composition.number_of_compositions == (1 if host else 0)
        assert (composition.max_compositions, composition.sharing_capable) == (1, False)
        assert composition.reserved_state is False
        assert (block.status.state, block.status.health) == (common.State.ENABLED, common.Health.OK)
        assert block.json["ResourceBlockType"] == [TYPE_OF[device.type]]
        assert ids(block.json["Links"]["ComputerSystems"]) == ({host} if host else set())
        assert ids(block.json["Links"]["Zones"]) == set(device.zones)
    for host in world.hosts:
        block = members[f"host-{host}"]
        assert block.composition_status.composition_state is CompositionState.COMPOSED
        assert ids(block.json["ComputerSystems"]) == {host}


def agree_on_zones(service: Any, world: World) -> None:
    """Every resource zone against the inventory."""
    zones = resource_zones(service)
    assert {zone.identity for zone in zones} == set(world.zones)
    for zone in zones:
        hosts, devices = world.zone_members[zone.identity]
        assert ids(zone.links.resource_blocks) == devices | {f"host-{host}" for host in hosts}
        assert zone.status.health is common.Health.OK


def agree_on_fabrics(service: Any, world: World) -> None:
    """Every fabric and endpoint against the inventory."""
    fabrics = {fabric.identity: fabric for fabric in service.get_fabric_collection().get_members()}
    assert set(fabrics) == set(FABRIC_TYPE)
    for name, fabric in fabrics.items():
        assert fabric.fabric_type is FABRIC_TYPE[name]
        assert fabric.json["FabricType"] == world.fabrics[name]
        endpoints = {endpoint.identity: endpoint for endpoint in fabric.endpoints.get_members()}
        devices = {
            d.id: d for d in world.devices.values() if ATTACH_FABRIC[d.type] == name or name in d.domains
        }
        assert set(endpoints) - {f"host-{host}" for host in world.hosts} == set(devices)
        for endpoint in endpoints.values():
            entity = endpoint.connected_entities[0]
            device = devices.get(endpoint.identity)
            if device is None:
                assert (entity.entity_type, entity.entity_role) == (
                    EntityType.ROOT_COMPLEX,
                    EntityRole.INITIATOR,
                )
            else:
                agree_on_entity(entity, endpoint, device, name)


def agree_on_entity(entity: Any, endpoint: Any, device: Device, fabric: str) -> None:
    """What a device's endpoint is connected to."""
    role = EntityRole.TARGET if fabric == ATTACH_FABRIC[device.type] else EntityRole.BOTH
    assert (entity.entity_type, entity.entity_role) == (ENTITY_TYPE[device.type], role)
    link = endpoint.json["ConnectedEntities"][0]["EntityLink"]["@odata.id"]
    assert link.startswith(f"{BLOCKS}/{device.id}/")
    zone = device.domains.get(fabric)
    assert ids(endpoint.json["Links"]["Zones"]) == ({zone} if zone else set())

"""Interconnects as Redfish shows them: fabrics, their switches, zones and endpoints."""

from __future__ import annotations

from collections.abc import Iterable

from weft.emulator.inventory import ATTACH_FABRIC, Device, DeviceType, Host, stable_uuid
from weft.emulator.redfish import (
    BLOCKS,
    FABRICS,
    SYSTEMS,
    Document,
    host_block,
    link,
    links,
    resource,
    status,
)

_ENTITY = {DeviceType.GPU: "Processor", DeviceType.CXL: "Memory", DeviceType.NVME: "Drive"}


def fabric(name: str, kind: str) -> Document:
    path = f"{FABRICS}/{name}"
    return resource(
        path,
        "Fabric.v1_3_2",
        name,
        FabricType=kind,
        Status=status(),
        Endpoints=link(f"{path}/Endpoints"),
        Zones=link(f"{path}/Zones"),
        Switches=link(f"{path}/Switches"),
    )


def switch(fabric_name: str, kind: str) -> Document:
    return resource(
        f"{FABRICS}/{fabric_name}/Switches/switch-0",
        "Switch.v1_9_2",
        "switch-0",
        SwitchType=kind,
        Status=status(),
    )


def fabric_zone(fabric_name: str, zone: str, hosts: Iterable[str], devices: Iterable[str]) -> Document:
    """One interconnect domain."""
    members = tuple(devices)
    base = f"{FABRICS}/{fabric_name}"
    return resource(
        f"{base}/Zones/{zone}",
        "Zone.v1_6_1",
        zone,
        ZoneType="ZoneOfEndpoints",
        Status=status(),
        Links={
            **links(
                "Endpoints", (f"{base}/Endpoints/{name}" for name in (*map(host_block, hosts), *members))
            ),
            **links("ResourceBlocks", (f"{BLOCKS}/{name}" for name in members)),
            **links("InvolvedSwitches", [f"{base}/Switches/switch-0"]),
        },
    )


def zone_of_host(fabric_name: str, zone: str, endpoints: Iterable[str]) -> Document:
    """The zone by which a host reaches its devices."""
    base = f"{FABRICS}/{fabric_name}"
    return resource(
        f"{base}/Zones/{zone}",
        "Zone.v1_6_1",
        zone,
        ZoneType="ZoneOfEndpoints",
        Status=status(),
        Links={
            **links("Endpoints", (f"{base}/Endpoints/{name}" for name in endpoints)),
            **links("InvolvedSwitches", [f"{base}/Switches/switch-0"]),
        },
    )


def endpoint(
    fabric_name: str, protocol: str, item: Device | Host, device_path: str = "", healthy: bool = True
) -> Document:
    """Where a device (at this path) or a host meets a fabric."""
    path = f"{FABRICS}/{fabric_name}/Endpoints"
    if isinstance(item, Host):
        path, target, entity, role = (
            f"{path}/{host_block(item.id)}",
            f"{SYSTEMS}/{item.id}",
            "RootComplex",
            "Initiator",
        )
    else:
        target, entity = device_path, _ENTITY[item.type]
        role = "Target" if fabric_name == ATTACH_FABRIC[item.type] else "Both"
        path = f"{path}/{item.id}"
    unique = stable_uuid(f"{'host' if isinstance(item, Host) else 'device'}/{item.id}")
    zone = item.domains.get(fabric_name)
    return resource(
        path,
        "Endpoint.v1_8_1",
        item.id,
        EndpointProtocol=protocol,
        Status=status(healthy),
        ConnectedEntities=[
            {
                "EntityType": entity,
                "EntityRole": role,
                "EntityLink": link(target),
                "Identifiers": [{"DurableNameFormat": "UUID", "DurableName": unique}],
            }
        ],
        Links=links("Zones", [f"{FABRICS}/{fabric_name}/Zones/{zone}"] if zone else []),
    )

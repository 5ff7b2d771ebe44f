"""Resources as Redfish shows them, each a function of the world and the state.

Property names and enumerations are those of DMTF's schema files named in `@odata.type`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from weft.emulator.inventory import ATTACH_FABRIC, Device, DeviceType, Host, World, stable_uuid
from weft.emulator.state import State

Document = dict[str, Any]

ROOT = "/redfish/v1"
SYSTEMS = f"{ROOT}/Systems"
CHASSIS = f"{ROOT}/Chassis"
FABRICS = f"{ROOT}/Fabrics"
COMPOSITION = f"{ROOT}/CompositionService"
BLOCKS = f"{COMPOSITION}/ResourceBlocks"
ZONES = f"{COMPOSITION}/ResourceZones"
SESSIONS = f"{ROOT}/SessionService/Sessions"
TASKS = f"{ROOT}/TaskService/Tasks"
MONITORS = f"{ROOT}/TaskService/TaskMonitors"

MIB = 1024**2

_BLOCK_TYPE = {DeviceType.GPU: "Processor", DeviceType.CXL: "Memory", DeviceType.NVME: "Storage"}
PART = {DeviceType.GPU: "Processors", DeviceType.CXL: "Memory", DeviceType.NVME: "Drives"}
"""The property of a block, and the path segment, under which the device is."""


def link(path: str) -> Document:
    """A reference to a resource."""
    return {"@odata.id": path}


def links(name: str, paths: Iterable[str]) -> Document:
    """An array of references and its count."""
    found = [link(path) for path in paths]
    return {name: found, f"{name}@odata.count": len(found)}


def resource(path: str, kind: str, name: str, **properties: Any) -> Document:
    """What every resource has; `kind` as `Zone.v1_6_1`."""
    schema = kind.split(".", 1)[0]
    identity = path.rstrip("/").rsplit("/", 1)[1]
    head = {"@odata.id": path, "@odata.type": f"#{kind}.{schema}", "Id": identity, "Name": name}
    return head | properties


def status(healthy: bool = True) -> Document:
    """Status of a resource that is in service."""
    return {"State": "Enabled", "Health": "OK" if healthy else "Critical"}


def host_block(host: str) -> str:
    """Id of the block that stands for the host itself."""
    return f"host-{host}"


def service_root(world: World, composes: bool) -> Document:
    return resource(
        f"{ROOT}/",
        "ServiceRoot.v1_17_0",
        "Fabric manager emulator",
        RedfishVersion="1.20.0",
        UUID=world.uuid,
        Product="weft emulator",
        ProtocolFeaturesSupported={
            "ExcerptQuery": False,
            "ExpandQuery": {
                "ExpandAll": True,
                "Levels": True,
                "Links": True,
                "MaxLevels": 2,
                "NoLinks": True,
            },
            "FilterQuery": False,
            "OnlyMemberQuery": False,
            "SelectQuery": False,
            "TopSkipQuery": True,
        },
        Systems=link(SYSTEMS),
        Chassis=link(CHASSIS),
        Fabrics=link(FABRICS),
        **({"CompositionService": link(COMPOSITION)} if composes else {}),
        AccountService=link(f"{ROOT}/AccountService"),
        SessionService=link(f"{ROOT}/SessionService"),
        Tasks=link(f"{ROOT}/TaskService"),
        Links={"Sessions": link(SESSIONS)},
    ) | {"Id": "RootService"}


def session_service(timeout_seconds: int) -> Document:
    return resource(
        f"{ROOT}/SessionService",
        "SessionService.v1_1_9",
        "Sessions",
        ServiceEnabled=True,
        SessionTimeout=timeout_seconds,
        Status=status(),
        Sessions=link(SESSIONS),
    )


def task_service() -> Document:
    return resource(
        f"{ROOT}/TaskService",
        "TaskService.v1_2_1",
        "Tasks",
        ServiceEnabled=True,
        CompletedTaskOverWritePolicy="Oldest",
        LifeCycleEventOnTaskStateChange=False,
        Status=status(),
        Tasks=link(TASKS),
    )


def composition_service() -> Document:
    return resource(
        COMPOSITION,
        "CompositionService.v1_2_2",
        "Composition",
        ServiceEnabled=True,
        AllowOverprovisioning=False,
        AllowZoneAffinity=False,
        Status=status(),
        ResourceBlocks=link(BLOCKS),
        ResourceZones=link(ZONES),
    )


def system(host: Host, attached: Iterable[str]) -> Document:
    """A host; `attached` are the ids of the blocks that it has."""
    return resource(
        f"{SYSTEMS}/{host.id}",
        "ComputerSystem.v1_22_0",
        host.id,
        SystemType="Physical",
        HostName=host.id,
        Manufacturer=host.vendor,
        Model=host.model,
        SerialNumber=f"SN-{host.id}",
        UUID=stable_uuid(f"host/{host.id}"),
        PowerState="On",
        Status=status(),
        Links={
            **links("ResourceBlocks", (f"{BLOCKS}/{block}" for block in attached)),
            **links("Chassis", [f"{CHASSIS}/{host.id}"]),
        },
    )


def chassis(world: World, name: str) -> Document:
    """The enclosure of a host, or of a device group."""
    if name in world.hosts:
        return resource(
            f"{CHASSIS}/{name}",
            "Chassis.v1_25_0",
            name,
            ChassisType="Sled",
            Status=status(),
            Links=links("ComputerSystems", [f"{SYSTEMS}/{name}"]),
        )
    return resource(
        f"{CHASSIS}/{name}", "Chassis.v1_25_0", name, ChassisType="Enclosure", Status=status(), Links={}
    )


def _block(
    name: str,
    kind: str,
    healthy: bool,
    systems: Iterable[str],
    state: str,
    *,
    zones: tuple[str, ...],
    enclosure: str,
    contents: Document,
) -> Document:
    """`systems`: the paths of those that have it."""
    paths = list(systems)
    return resource(
        f"{BLOCKS}/{name}",
        "ResourceBlock.v1_4_2",
        name,
        ResourceBlockType=[kind],
        Status=status(healthy),
        CompositionStatus={
            "CompositionState": state,
            "Reserved": False,
            "SharingCapable": False,
            "MaxCompositions": 1,
            "NumberOfCompositions": len(paths),
        },
        **contents,
        Links={
            **links("ComputerSystems", paths),
            **links("Chassis", [f"{CHASSIS}/{enclosure}"]),
            **links("Zones", (f"{ZONES}/{zone}" for zone in zones)),
        },
    )


def block_of_compute(host: Host, systems: list[str]) -> Document:
    """A host's block where a system is made of it: a CPU and memory."""
    path = f"{BLOCKS}/{host_block(host.id)}"
    return _block(
        host_block(host.id),
        "Compute",
        True,
        systems,
        "Composed" if systems else "Unused",
        zones=host.zones,
        enclosure=host.id,
        contents={
            **links("Processors", [f"{path}/Processors/cpu-0"]),
            **links("Memory", [f"{path}/Memory/dimm-0"]),
        },
    )


def block_of_host(host: Host) -> Document:
    """The ComputerSystem block by which a host is a member of resource zones."""
    return _block(
        host_block(host.id),
        "ComputerSystem",
        True,
        [f"{SYSTEMS}/{host.id}"],
        "Composed",
        zones=host.zones,
        enclosure=host.id,
        contents=links("ComputerSystems", [f"{SYSTEMS}/{host.id}"]),
    )


def block_of_device(device: Device, state: State, healthy: bool) -> Document:
    """The block that can be attached to hosts."""
    hosts = state.hosts_of(device.id)
    composition = "Composing" if state.is_composing(device.id) else "Composed" if hosts else "Unused"
    return _block(
        device.id,
        _BLOCK_TYPE[device.type],
        healthy,
        (f"{SYSTEMS}/{host}" for host in hosts),
        composition,
        zones=device.zones,
        enclosure=device.group,
        contents=links(PART[device.type], [f"{BLOCKS}/{device.id}/{PART[device.type]}/{device.id}"]),
    )


def device_document(device: Device, path: str, healthy: bool) -> Document:
    """The Processor, Memory or Drive at this path."""
    endpoints = links(
        "Endpoints", (f"{FABRICS}/{fabric}/Endpoints/{device.id}" for fabric in fabrics_of(device))
    )
    common: Document = {
        "Manufacturer": device.vendor,
        "Model": device.model,
        "SerialNumber": f"SN-{device.id}",
        "Status": status(healthy),
    }
    mebibytes = device.capacity_bytes // MIB
    if device.type is DeviceType.GPU:
        return resource(
            path,
            "Processor.v1_18_0",
            device.id,
            ProcessorType=device.processor,
            UUID=stable_uuid(f"device/{device.id}"),
            MemorySummary={"TotalMemorySizeMiB": mebibytes},
            ProcessorMemory=[{"CapacityMiB": mebibytes, "IntegratedMemory": True}],
            SystemInterface={
                "InterfaceType": "PCIe",
                "PCIe": {"PCIeType": "Gen5", "LanesInUse": 16, "MaxLanes": 16},
            },
            Links=endpoints,
            **common,
        )
    if device.type is DeviceType.CXL:
        return resource(
            path,
            "Memory.v1_17_0",
            device.id,
            MemoryType="DRAM",
            MemoryDeviceType="DDR5",
            MemoryMedia=["DRAM"],
            CapacityMiB=mebibytes,
            CXL={"LabelStorageSizeBytes": 0},
            **common,
        )
    return resource(
        path,
        "Drive.v1_17_0",
        device.id,
        Protocol="NVMe",
        MediaType="SSD",
        CapacityBytes=device.capacity_bytes,
        Links=endpoints,
        **common,
    )


def fabrics_of(item: Device | Host, attach: Iterable[str] = ()) -> tuple[str, ...]:
    """The fabrics in which a device or host has an endpoint; `attach`: those by which hosts reach devices."""
    first = (ATTACH_FABRIC[item.type],) if isinstance(item, Device) else tuple(attach)
    return tuple(dict.fromkeys((*first, *item.domains)))


def resource_zone(zone: str, hosts: Iterable[str], devices: Iterable[str]) -> Document:
    """Blocks that can be composed with each other."""
    blocks = (*(host_block(host) for host in hosts), *devices)
    return resource(
        f"{ZONES}/{zone}",
        "Zone.v1_6_1",
        zone,
        ZoneType="ZoneOfResourceBlocks",
        Status=status(),
        Links=links("ResourceBlocks", (f"{BLOCKS}/{block}" for block in blocks)),
    )

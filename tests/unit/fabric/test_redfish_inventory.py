"""Parsing and assembly with hand-made resources in DMTF's shapes."""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.fabric.driver import DeviceKind, UnusedReason
from weft.fabric.errors import FabricError, Transient
from weft.fabric.redfish.discovery import Service
from weft.fabric.redfish.facts import Facts, facts_of
from weft.fabric.redfish.inventory import Domain, Problems, Topology, assemble
from weft.fabric.redfish.mapping import Reply
from weft.fabric.redfish.members import Members
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.reader import Listing
from weft.fabric.redfish.resources import Block, System, block_of, system_of
from weft.fabric.redfish.topology import domain_attribute
from weft.fabric.redfish.uris import local_path, origin_of

GIB = 1 << 30
BLOCKS = "/redfish/v1/CompositionService/ResourceBlocks"


def resolve(link: object) -> str:
    return local_path(origin_of("https://fm"), link)


def block(name: str = "gpu-0", **body: Any) -> Block:
    defaults = {
        "Id": name,
        "ResourceBlockType": ["Processor"],
        "Processors": [{"@odata.id": f"{BLOCKS}/{name}/Processors/0"}],
        "Links": {"ComputerSystems": []},
    }
    return block_of(defaults | body, f"{BLOCKS}/{name}", resolve)


def system(name: str = "sled-0", *blocks: str, **body: Any) -> System:
    links = {"ResourceBlocks": [{"@odata.id": f"{BLOCKS}/{b}"} for b in blocks]}
    return system_of({"Id": name, "Links": links} | body, f"/redfish/v1/Systems/{name}", resolve)


def at(*systems: str) -> dict[str, Any]:
    return {"ComputerSystems": [{"@odata.id": f"/redfish/v1/Systems/{s}"} for s in systems]}


def inventory(
    blocks: list[Block], systems: list[System], topology: Topology | None = None, **known: Facts
) -> Any:
    facts: dict[str, Facts | UnusedReason] = {
        b.uri: known.get(b.id, Facts(DeviceKind.ACCELERATOR, {}, 0)) for b in blocks
    }
    return assemble(blocks, systems, facts, topology or Topology(), Problems())


@pytest.mark.parametrize(
    ("body", "healthy"),
    [
        ({}, True),
        ({"Status": {"State": "Enabled", "Health": "OK"}}, True),
        ({"Status": {"State": "StandbyOffline", "Health": "Warning"}}, True),
        ({"Status": {"Health": "Critical"}}, False),
        ({"Status": {"Health": "OK", "HealthRollup": "Critical"}}, False),
        ({"Status": {"State": "Absent"}}, False),
        ({"Status": {"State": "UnavailableOffline", "Health": "OK"}}, False),
        ({"CompositionStatus": {"CompositionState": "Failed"}}, False),
        ({"CompositionStatus": {"CompositionState": "Unavailable"}}, False),
        ({"CompositionStatus": {"CompositionState": "Composed"}}, True),
    ],
)
def test_health_of_a_device_follows_its_status(body: dict[str, Any], healthy: bool) -> None:
    assert block(**body).healthy is healthy


@pytest.mark.parametrize(
    ("kind", "component", "attributes", "capacity_bytes"),
    [
        (
            DeviceKind.ACCELERATOR,
            {
                "ProcessorType": "GPU",
                "Manufacturer": "NVIDIA",
                "Model": "H200",
                "MemorySummary": {"TotalMemorySizeMiB": 144384},
            },
            {"type": "GPU", "vendor": "NVIDIA", "model": "H200"},
            141 * GIB,
        ),
        (
            DeviceKind.ACCELERATOR,
            {
                "ProcessorType": "Accelerator",
                "ProcessorMemory": [
                    {"MemoryType": "HBM3", "CapacityMiB": 1024},
                    {"MemoryType": "L2Cache", "CapacityMiB": 50},
                ],
            },
            {"type": "Accelerator"},
            GIB,
        ),
        (
            DeviceKind.MEMORY,
            {"CXL": {}, "MemoryType": "DRAM", "MemoryDeviceType": "DDR5", "CapacityMiB": 512 * 1024},
            {"type": "CXL", "medium": "DRAM"},
            512 * GIB,
        ),
        (
            DeviceKind.STORAGE,
            {"Protocol": "NVMe", "MediaType": "SSD", "CapacityBytes": 4_000_000_000_000, "Model": "X"},
            {"type": "NVMe", "medium": "NVMe", "model": "X"},
            4_000_000_000_000,
        ),
        (DeviceKind.STORAGE, {"Protocol": "SAS", "MediaType": "HDD"}, {"type": "SAS", "medium": "HDD"}, 0),
    ],
)
def test_components_tell_what_a_device_is(
    kind: DeviceKind, component: dict[str, Any], attributes: dict[str, str], capacity_bytes: int
) -> None:
    facts = facts_of(kind, [component])
    assert isinstance(facts, Facts)
    assert (facts.kind, facts.attributes, facts.capacity_bytes) == (kind, attributes, capacity_bytes)
    assert (facts.notes == ()) == (capacity_bytes > 0)


def test_a_block_of_cpus_is_no_device() -> None:
    assert facts_of(DeviceKind.ACCELERATOR, [{"ProcessorType": "CPU"}]) is UnusedReason.CPUS


@pytest.mark.parametrize("kind", ["Virtual", "OS", "DPU", "Unknown", 7])
def test_a_system_that_is_no_server_is_no_host(kind: object) -> None:
    assert system(SystemType=kind).unused is UnusedReason.NO_SERVER


def test_attachments_come_from_both_sides() -> None:
    read = inventory(
        [block("gpu-0", Links=at("sled-0")), block("gpu-1")], [system("sled-0", "gpu-0"), system("sled-1")]
    )
    assert read.attachments == (("gpu-0", "sled-0"),)
    assert read.complete
    assert read.problems == ()


@pytest.mark.parametrize(
    ("blocks", "systems", "told"),
    [
        ([block("gpu-0", Links=at("sled-0"))], [system("sled-0")], "gpu-0 at sled-0: only the device"),
        ([block("gpu-0")], [system("sled-0", "gpu-0")], "gpu-0 at sled-0: only the host"),
    ],
)
def test_sides_that_disagree_about_a_device_give_the_union_and_leave_that_device_unread(
    blocks: list[Block], systems: list[System], told: str
) -> None:
    agreed = block("gpu-9", Links=at("sled-9")), system("sled-9", "gpu-9")
    read = inventory([*blocks, agreed[0]], [*systems, agreed[1]])
    assert read.attachments == (("gpu-0", "sled-0"), ("gpu-9", "sled-9"))
    assert not read.complete
    assert read.unread.devices == {"gpu-0"}
    assert told in read.problems[0]


@pytest.mark.parametrize(
    ("blocks", "systems"),
    [
        ([block("gpu-0", Links=at("sled-0")), block("gpu-1")], [system("sled-0")]),
        ([block("gpu-0"), block("gpu-1")], [system("sled-0", "gpu-0")]),
    ],
)
def test_a_manager_that_keeps_one_side_only_is_read_by_that_side(
    blocks: list[Block], systems: list[System]
) -> None:
    read = inventory(blocks, systems)
    assert read.attachments == (("gpu-0", "sled-0"),)
    assert (read.complete, read.problems) == (True, ())


def test_a_side_that_does_not_say_is_no_disagreement() -> None:
    silent_block = inventory([block("gpu-0", Links={})], [system("sled-0", "gpu-0")])
    silent_system = inventory([block("gpu-0", Links=at("sled-0"))], [system("sled-0", Links={})])
    assert silent_block.attachments == silent_system.attachments == (("gpu-0", "sled-0"),)
    assert silent_block.complete
    assert silent_system.complete


def test_a_device_at_two_hosts_is_reported_twice() -> None:
    read = inventory(
        [block("gpu-0", Links=at("sled-0", "sled-1"))], [system("sled-0", "gpu-0"), system("sled-1", "gpu-0")]
    )
    assert read.attachments == (("gpu-0", "sled-0"), ("gpu-0", "sled-1"))


def test_a_device_whose_facts_could_not_be_read_keeps_its_attachment() -> None:
    read = assemble(
        [block("gpu-0", Links=at("sled-0"))], [system("sled-0", "gpu-0")], {}, Topology(), Problems()
    )
    assert read.devices == ()
    assert read.attachments == (("gpu-0", "sled-0"),)


def host_block(name: str) -> Block:
    own = [{"@odata.id": f"/redfish/v1/Systems/{name}"}]
    return block(f"host-{name}", ResourceBlockType=["ComputerSystem"], ComputerSystems=own, Links=at(name))


def test_a_device_reaches_the_hosts_that_share_a_zone_with_it() -> None:
    zones = tuple(
        frozenset(f"{BLOCKS}/{name}" for name in names)
        for names in (("gpu-0", "host-sled-0", "gpu-1"), ("gpu-1", "host-sled-1"))
    )
    blocks = [block("gpu-0"), block("gpu-1"), block("gpu-2"), host_block("sled-0"), host_block("sled-1")]
    read = inventory(blocks, [system("sled-0"), system("sled-1")], Topology(zones))
    assert {d.id: d.reachable_hosts for d in read.devices} == {
        "gpu-0": {"sled-0"},
        "gpu-1": {"sled-0", "sled-1"},
        "gpu-2": set(),
    }
    assert read.attachments == ()


def test_the_devices_of_a_zone_hold_one_list_of_its_hosts() -> None:
    """A thousand devices that each held five hundred names took 32 KiB each."""
    names = ("gpu-0", "gpu-1", "host-sled-0", "host-sled-1")
    both, one = (frozenset(f"{BLOCKS}/{name}" for name in some) for some in (names, names[:3]))
    blocks = [block("gpu-0"), block("gpu-1"), host_block("sled-0"), host_block("sled-1")]
    read = inventory(blocks, [system("sled-0"), system("sled-1")], Topology((both, one)))
    first, second = read.devices
    assert first.reachable_hosts == {"sled-0", "sled-1"}
    assert first.reachable_hosts is second.reachable_hosts


def test_zones_without_hosts_restrict_nothing() -> None:
    read = inventory([block("gpu-0")], [system()], Topology((frozenset({f"{BLOCKS}/gpu-0"}),)))
    assert read.devices[0].reachable_hosts is None


def test_domains_are_attributes_of_devices_and_hosts() -> None:
    processor = f"{BLOCKS}/gpu-0/Processors/0"
    domains = (
        Domain("nvlinkDomain", "nvl-0", frozenset({processor, f"{BLOCKS}/gpu-1"})),
        Domain("rdmaDomain", "ib-0", frozenset({"/redfish/v1/Systems/sled-0"})),
    )
    blocks = [block("gpu-0", Processors=[{"@odata.id": processor}]), block("gpu-1"), block("gpu-2")]
    read = inventory(blocks, [system()], Topology((), domains))
    assert [d.attributes for d in read.devices] == [{"nvlinkDomain": "nvl-0"}, {"nvlinkDomain": "nvl-0"}, {}]
    assert read.hosts[0].attributes == {"rdmaDomain": "ib-0"}


def test_a_device_in_two_domains_of_a_kind_is_told() -> None:
    domains = tuple(Domain("nvlinkDomain", v, frozenset({f"{BLOCKS}/gpu-0"})) for v in ("b", "a"))
    read = inventory([block()], [], Topology((), domains))
    assert read.devices[0].attributes == {"nvlinkDomain": "a"}
    assert "more than one nvlinkDomain" in read.problems[0]


@pytest.mark.parametrize(
    ("fabric_type", "attribute"),
    [
        ("NVLink", "nvlinkDomain"),
        ("InfiniBand", "rdmaDomain"),
        ("RoCEv2", "rdmaDomain"),
        ("CXL", "cxlDomain"),
        ("NVMeOverFabrics", "nvmeofDomain"),
        ("UALink", "ualinkDomain"),
        (None, ""),
        ("//", ""),
    ],
)
def test_domains_are_named_after_the_fabrics_type(fabric_type: object, attribute: str) -> None:
    assert domain_attribute(fabric_type) == attribute


# Arbitrary JSON, but with the names that the parser looks at, so that it gets past the first line.
links = st.builds(
    lambda v: {"@odata.id": v}, st.sampled_from([f"{BLOCKS}/gpu-0", "/redfish/v1/Systems/a", "x", "", 7])
)
names = st.sampled_from(
    [
        "@odata.id",
        "@odata.etag",
        "Id",
        "Name",
        "Members",
        "Links",
        "ResourceBlockType",
        "Processors",
        "Memory",
        "Drives",
        "Storage",
        "Status",
        "Health",
        "State",
        "ComputerSystems",
        "ResourceBlocks",
        "SystemType",
        "CompositionStatus",
        "CXL",
        "MemoryMedia",
        "CapacityMiB",
        "CapacityBytes",
        "Zones",
        "ProcessorType",
        "ProcessorMemory",
        "MemorySummary",
        "TotalMemorySizeMiB",
        "FabricType",
        "Endpoints",
        "ConnectedEntities",
        "EntityLink",
        "ZoneType",
        "Protocol",
        "Members@odata.count",
        "Members@odata.nextLink",
    ]
)
strange = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | links
    | st.just("Processor"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
    max_leaves=15,
)
resources = st.dictionaries(names, strange, max_size=8)


@given(resources)
def test_any_resource_is_parsed_or_refused_as_unusable(body: dict[str, Any]) -> None:
    for parse in (block_of, system_of):
        try:
            parse(body, "/redfish/v1/x", resolve)
        except Transient:
            continue
    for kind in (*DeviceKind, None):
        facts = facts_of(kind, [body])
        assert isinstance(facts, UnusedReason) or facts.capacity_bytes >= 0


class Recorded:
    """Stands for a session: any path answers with the given resource, or fails."""

    def __init__(self, bodies: dict[str, Any], default: dict[str, Any]) -> None:
        self.bodies, self.default = bodies, default

    max_in_flight = 4

    def allowed(self, path: str) -> frozenset[str] | None:
        return None

    def local(self, link: object, base: str = "") -> str:
        return local_path(origin_of("https://fm"), link, base)

    async def get(self, link: str, *, deadline: float | None = None, login: int | None = None) -> Reply:
        path = resolve(link).partition("?")[0]
        return Reply(path, 200, {"@odata.id": path, **self.bodies.get(path, self.default)})


@settings(deadline=None)
@given(
    st.lists(resources, max_size=4),
    st.lists(resources, max_size=3),
    resources,
    st.lists(resources, max_size=3),
)
def test_any_manager_gives_an_inventory_or_a_fabric_error(
    blocks: list[Any], systems: list[Any], anything: dict[str, Any], fabrics: list[Any]
) -> None:
    paths = {
        "/redfish/v1/B": blocks,
        "/redfish/v1/S": systems,
        "/redfish/v1/Z": fabrics,
        "/redfish/v1/F": fabrics,
    }
    bodies = {path: {"Members": members} for path, members in paths.items()}
    poller = Poller(Recorded(bodies, anything), {})  # type: ignore[arg-type]  # a session is more than a test needs
    service = Service(
        "/redfish/v1/B", "/redfish/v1/S", "/redfish/v1/Z", "/redfish/v1/F", "", "", "$expand=.", ""
    )
    try:
        read = asyncio.run(poller.read(service, deadline=0.0))
    except FabricError:
        return
    assert read.complete or read.problems


def test_a_host_has_the_machines_uuid_that_the_manager_reports_also_within_a_domain() -> None:
    topology = Topology(domains=(Domain("rdmaDomain", "r0", frozenset({"/redfish/v1/Systems/sled-0"})),))
    told = system("sled-0", UUID="38947555-7742-3448-3784-823347823834")
    (host,) = inventory([], [told], topology).hosts
    assert host.uuid == "38947555-7742-3448-3784-823347823834"
    (untold,) = inventory([], [system("sled-1")]).hosts
    assert untold.uuid == ""


async def test_a_reading_of_a_big_rack_lets_binds_go_on() -> None:
    bodies = {f"{BLOCKS}/gpu-{n}": {"Id": f"gpu-{n}", "ResourceBlockType": []} for n in range(1000)}
    members = Members(block_of, resolve)
    taking = asyncio.create_task(members.take(Listing(bodies, whole=True), 1, Problems()))
    read = [0]
    while not taking.done():
        await asyncio.sleep(0)
        read.append(len(members.values()))
    assert read[-1] == 1000
    assert max(after - before for before, after in itertools.pairwise(read)) <= 25

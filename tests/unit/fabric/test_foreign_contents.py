"""What other people's blocks hold, in the shapes they give it: found, or told why not."""

from typing import Any

import pytest

from support.replay import BLOCKS, SYSTEMS, Tree, block, case, collection, link, rack, reading, system
from weft.fabric.driver import Device, DeviceKind, Inventory, not_used

B = f"{BLOCKS}/b"
GIB = 1 << 30


async def read_block(body: Tree, parts: Tree | None = None) -> Inventory:
    """The inventory of a rack with one block of these properties, and with these other resources."""
    tree = rack({B: {**link(B), "Id": "b", **body}}) | (parts or {})
    async with reading(tree) as (_, driver):
        return await driver.inventory()


def resource(path: str, **body: Any) -> Tree:
    return {path: {**link(path), "Id": path.rpartition("/")[2], **body}}


GPU = resource(f"{B}/Processors/1", ProcessorType="GPU", MemorySummary={"TotalMemorySizeMiB": 1024})
CPU = resource(f"{B}/Processors/2", ProcessorType="CPU")
DIMM = resource(f"{B}/Memory/1", MemoryType="DRAM", CapacityMiB=2048, CXL={})
DRIVE = resource(f"{B}/Drives/1", Protocol="NVMe", CapacityBytes=4096)
STORAGE = resource(f"{B}/Storage/1", Drives=[link(f"{B}/Drives/1")]) | DRIVE
SIMPLE = resource(f"{B}/SimpleStorage/1", Devices=[{"CapacityBytes": 4096, "Manufacturer": "X"}])


def pcie(device_class: str, **body: Any) -> Tree:
    functions = f"{B}/PCIeDevices/1/PCIeFunctions"
    return (
        resource(f"{B}/PCIeDevices/1", Manufacturer="X", PCIeFunctions=link(functions), **body)
        | {functions: collection(functions, [f"{functions}/0"])}
        | resource(f"{functions}/0", DeviceClass=device_class)
    )


def only(parts: Tree) -> Tree:
    return link(next(iter(parts)))


@pytest.mark.parametrize("types", [None, [], ["Expansion"], "missing"])
@pytest.mark.parametrize(
    ("held", "parts", "kind", "capacity"),
    [
        ("Processors", GPU, DeviceKind.ACCELERATOR, GIB),
        ("Memory", DIMM, DeviceKind.MEMORY, 2 * GIB),
        ("Drives", DRIVE, DeviceKind.STORAGE, 4096),
        ("Storage", STORAGE, DeviceKind.STORAGE, 4096),
        ("SimpleStorage", SIMPLE, DeviceKind.STORAGE, 4096),
        ("PCIeDevices", pcie("ProcessingAccelerators"), DeviceKind.ACCELERATOR, 0),
        ("PCIeDevices", pcie("MassStorageController"), DeviceKind.STORAGE, 0),
        ("PCIeDevices", pcie("Other", CXLDevice={"CXLType": "Type3"}), DeviceKind.MEMORY, 0),
    ],
)
async def test_a_block_is_what_it_holds_whatever_its_type_says(
    types: object, held: str, parts: Tree, kind: DeviceKind, capacity: int
) -> None:
    typed = {} if types == "missing" else {"ResourceBlockType": types}
    read = await read_block({**typed, held: [only(parts)]}, parts)
    assert [(d.id, d.kind, d.capacity_bytes) for d in read.devices] == [("b", kind, capacity)]
    assert read.complete
    # A size that nobody tells is not silently none.
    assert (capacity == 0) == any("size" in problem for problem in read.problems)


PROCESSORS = f"{B}/Processors"


@pytest.mark.parametrize(
    ("value", "more"),
    [
        ([link(f"{PROCESSORS}/1")], {}),
        ([f"{PROCESSORS}/1"], {}),
        ([None, link(f"{PROCESSORS}/1")], {}),
        (link(f"{PROCESSORS}/1"), {}),
        (f"{PROCESSORS}/1", {}),
        (link(PROCESSORS), {PROCESSORS: collection(PROCESSORS, [f"{PROCESSORS}/1"])}),
        (
            link(PROCESSORS),
            {PROCESSORS: {**link(PROCESSORS), "Links": {"Members": [link(f"{PROCESSORS}/1")]}}},
        ),
        ({"Members": [link(f"{PROCESSORS}/1")]}, {}),
        ({"Links": {"Members": [link(f"{PROCESSORS}/1")]}}, {}),
        ({"Members": [GPU[f"{PROCESSORS}/1"]]}, {}),
        ([GPU[f"{PROCESSORS}/1"]], {}),
        (GPU[f"{PROCESSORS}/1"], {}),
        ({"first": link(f"{PROCESSORS}/1")}, {}),
    ],
)
@pytest.mark.parametrize("types", ["Processor", ["Processor"], {"Members": ["Processor"]}])
async def test_what_a_block_holds_is_found_in_any_shape(value: object, more: Tree, types: object) -> None:
    read = await read_block({"ResourceBlockType": types, "Processors": value}, GPU | more)
    assert [(d.kind, d.capacity_bytes) for d in read.devices] == [(DeviceKind.ACCELERATOR, GIB)]
    assert (read.complete, read.problems) == (True, ())


@pytest.mark.parametrize("nothing", [None, [], {}, "missing"])
async def test_a_property_that_says_nothing_is_no_content(nothing: object) -> None:
    body = {"Processors": nothing, "Memory": nothing, "Drives": [only(DRIVE)], "Links": nothing}
    read = await read_block({k: v for k, v in body.items() if v != "missing"}, DRIVE)
    assert [d.kind for d in read.devices] == [DeviceKind.STORAGE]
    assert (read.complete, read.problems) == (True, ())


async def test_the_type_tells_which_of_its_contents_is_meant() -> None:
    held = {"Processors": [only(GPU)], "Drives": [only(DRIVE)]}
    read = await read_block({**held, "ResourceBlockType": ["Storage"]}, GPU | DRIVE)
    assert [d.kind for d in read.devices] == [DeviceKind.STORAGE]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            {"ResourceBlockType": ["ComputerSystem"], "ComputerSystems": [link(f"{SYSTEMS}/sled-0")]},
            "is of a host",
        ),
        ({"ResourceBlockType": ["Compute"], "Processors": [only(CPU)]}, "is of a host"),
        ({"ComputerSystems": [link(f"{SYSTEMS}/sled-0")]}, "is of a host"),
        ({"Processors": [only(CPU)]}, "holds CPUs"),
        ({"NetworkInterfaces": [link(f"{B}/NetworkInterfaces/1")]}, "holds network cards only"),
        ({"ResourceBlockType": ["Network"]}, "holds network cards only"),
        ({"PCIeDevices": [link(f"{B}/PCIeDevices/1")]}, "holds something unknown"),
        ({"ResourceBlockType": ["Processor"], "Processors": []}, "names nothing that it holds"),
        ({"Id": "x" * 257, "Processors": [only(GPU)]}, "has no usable Id"),
    ],
)
async def test_a_block_that_is_not_used_is_counted_with_its_reason(body: Tree, why: str) -> None:
    read = await read_block(body, GPU | CPU | pcie("Bridge"))
    assert read.devices == ()
    assert not_used(read) == f"1 block not used: 1 {why}"
    assert read.complete


async def test_what_is_not_used_is_one_sentence() -> None:
    hosts = [block(f"{BLOCKS}/h{n}", ResourceBlockType=["Compute"]) for n in range(10)]
    cards = [block(f"{BLOCKS}/n{n}", Processors=None, NetworkInterfaces=[link(f"{B}/1")]) for n in range(2)]
    machines = system(f"{SYSTEMS}/vm", SystemType="Virtual")
    tree = rack(*hosts, *cards, machines, block(f"{BLOCKS}/gpu"), system(f"{SYSTEMS}/sled"))
    async with reading(tree) as (_, driver):
        read = await driver.inventory()
    assert ([d.id for d in read.devices], [h.id for h in read.hosts]) == (["gpu"], ["sled"])
    assert not_used(read) == (
        "12 blocks not used: 10 are of hosts, 2 hold network cards only;"
        " 1 system not used: 1 is no server (a virtual machine, a DPU)"
    )


@pytest.mark.parametrize(
    ("body", "capacity", "told"),
    [
        ({"MemorySummary": {"TotalMemorySizeMiB": "1024"}}, GIB, "TotalMemorySizeMiB is text"),
        ({"MemorySummary": {"TotalMemorySizeMiB": "1 GiB"}}, 0, "TotalMemorySizeMiB is text"),
        ({"MemorySummary": {"TotalMemorySizeMiB": -5}}, 0, "TotalMemorySizeMiB is -5"),
        ({"MemorySummary": {"TotalMemorySizeMiB": {"MiB": 1}}}, 0, "TotalMemorySizeMiB is an object"),
        ({"MemorySummary": {"TotalMemorySizeMiB": True}}, 0, "TotalMemorySizeMiB is true"),
        ({"MemorySummary": None, "ProcessorMemory": 7}, 0, "ProcessorMemory is 7"),
        ({"ProcessorMemory": [{"MemoryType": {}, "CapacityMiB": 1024}], "MemorySummary": 1}, GIB, ""),
        ({"Manufacturer": ["NVIDIA"]}, GIB, "Manufacturer is no text"),
        ({"ProcessorType": {"a": 1}}, GIB, "its type is no text"),
    ],
)
async def test_a_value_of_a_wrong_type_is_told_and_never_silently_zero(
    body: Tree, capacity: int, told: str
) -> None:
    processor = {f"{PROCESSORS}/1": GPU[f"{PROCESSORS}/1"] | body}
    read = await read_block({"Processors": [only(GPU)]}, processor)
    assert [d.capacity_bytes for d in read.devices] == [capacity]
    assert any(told in problem for problem in read.problems) or not told
    assert (capacity == 0) == any("counts as 0 bytes" in problem for problem in read.problems)
    assert read.complete


@pytest.mark.parametrize(
    "body",
    [
        {"Status": "OK"},
        {"Status": {"State": ["Enabled"], "Health": {}}},
        {"CompositionStatus": []},
        {"ResourceBlockType": 7},
        {"ResourceBlockType": [7, None]},
        {"Links": 7},
        {"Links": {"ComputerSystems": 7}},
        {"Id": 7},
        {"Id": None},
        {"Memory": True},
    ],
)
async def test_a_wrong_type_costs_neither_the_device_nor_the_reading(body: Tree) -> None:
    read = await read_block({"Processors": [only(GPU)], **body}, GPU)
    assert [d.id for d in read.devices] == ["7" if body.get("Id") == 7 else "b"]
    assert read.complete


async def test_the_same_oddity_of_many_is_told_once() -> None:
    tree = rack(*(block(f"{BLOCKS}/gpu-{n}", ResourceBlockType=7) for n in range(9)))
    async with reading(tree) as (_, driver):
        read = await driver.inventory()
    assert read.problems == ("gpu-0, gpu-1, gpu-2 and 6 more: ResourceBlockType is 7, not a list",)


async def test_blocks_without_a_type_are_devices() -> None:
    async with reading(case("types-empty-nec")) as (_, driver):
        read = await driver.inventory()
    assert [d.id for d in read.devices] == ["gpu-0", "gpu-1", "gpu-2"]
    assert {type(d) for d in read.devices} == {Device}


async def test_a_manager_that_composes_nothing_shows_its_hosts_and_says_why_there_are_no_devices() -> None:
    tree = rack()
    del tree["/redfish/v1/"]["CompositionService"]
    async with reading(tree) as (_, driver):
        read = await driver.inventory()
    assert [h.id for h in read.hosts] == ["sled-0"]
    assert not_used(read).startswith("no devices: the manager has no CompositionService")

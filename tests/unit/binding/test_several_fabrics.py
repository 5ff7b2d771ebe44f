"""One logical node over several fabrics: GPUs of one manager, memory of another, drives of a third; all or nothing."""

from __future__ import annotations

import pytest

from support.rack import MemoryDriver, Rack, condition
from weft.api.resources import FABRICS, GPU_POOLS, LOGICAL_NODES, MEMORY_POOLS, STORAGE_POOLS
from weft.fabric.driver import Device, DeviceKind
from weft.fabric.errors import CapacityExhausted, Conflict, Transient

GIB = 2**30
MEMORY = [{"name": "kv", "size": "512Gi"}]
STORAGE = [{"name": "cache", "size": "1Ti"}]


@pytest.fixture
async def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    """Two machines that three managers attach to, each under names of its own."""
    made = Rack(monkeypatch)
    await made.build()
    made.drivers["https://cxl"] = cxl = MemoryDriver(0, ["blade-0", "blade-1"])
    cxl.memories = {"mem-0": 512 * GIB, "mem-1": 512 * GIB}
    made.drivers["https://nvme"] = nvme = MemoryDriver(0, ["nqn.2014:host-0", "nqn.2014:host-1"])
    nvme.others = (Device("vol-0", DeviceKind.STORAGE, {"type": "NVMe"}, 1024 * GIB, True),)
    for name, driver, pools in (("cxl", cxl, MEMORY_POOLS), ("nvme", nvme, STORAGE_POOLS)):
        hosts = [{"host": host, "nodeName": f"node-sled-{n}"} for n, host in enumerate(driver.hosts)]
        await made.add_fabric(name, endpoint=f"https://{name}", hosts=hosts)
        spec = {"fabricRef": {"name": name}, "selector": {}, "allowedNamespaces": {}}
        await made.cluster.create(pools, {"metadata": {"name": name}, "spec": spec})
        await made.poll(name)
    return made


def everything(rack: Rack) -> set[tuple[str, str]]:
    """What all managers have attached."""
    return set().union(*(driver.pairs for driver in rack.drivers.values()))


def log_calls(rack: Rack) -> list[tuple[str, str]]:
    """The changes that managers are asked for from now on, in order: (endpoint, call)."""
    log: list[tuple[str, str]] = []
    for endpoint, driver in rack.drivers.items():
        for call in ("attach", "detach"):
            original = getattr(driver, call)

            async def logged(*args: object, _of=(endpoint, call), _do=original) -> object:  # type: ignore[no-untyped-def]
                log.append(_of)
                return await _do(*args)

            setattr(driver, call, logged)
    return log


async def test_gpus_memory_and_drives_of_three_managers_are_bound_to_one_node_and_released_in_reverse(
    rack: Rack,
) -> None:
    log = log_calls(rack)
    await rack.ask("n", memory=MEMORY, storage=STORAGE)
    node = rack.node("n")
    assert condition(node, "Bound")[0] == condition(node, "Ready")[0] == "True"
    (number,) = {name[-1] for _, name in everything(rack)}
    assert everything(rack) == {
        ("gpu-0", f"sled-{number}"),
        ("gpu-1", f"sled-{number}"),
        ("mem-0", f"blade-{number}"),
        ("vol-0", f"nqn.2014:host-{number}"),
    }
    assert node["status"]["nodeName"] == f"node-sled-{number}"
    assert node["status"]["deviceCount"] == 4
    assert "host" not in node["status"]
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert (rack.claims(), everything(rack), rack.tainted()) == ([], set(), {})
    order = ["https://cxl", "https://nvme", "https://rack"]
    assert log == [(each, "attach") for each in order] + [(each, "detach") for each in reversed(order)]


@pytest.mark.parametrize("refusal", [Conflict("in use"), CapacityExhausted("no lane left")])
async def test_when_one_manager_refuses_what_another_attached_is_taken_back(
    rack: Rack, refusal: Exception
) -> None:
    async def refuse() -> None:
        raise refusal

    rack.driver.before_attach = refuse
    await rack.ask("n", memory=MEMORY)
    # Wherever it is tried, nothing stays attached at the other manager while this one refuses.
    for _ in range(3):
        await rack.work("n")
        await rack.place_again()
    assert "attach" in rack.drivers["https://cxl"].calls
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert (everything(rack), rack.claims()) == (set(), [])


async def test_a_device_that_fails_at_one_manager_is_quarantined_and_the_rest_moves_to_other_devices(
    rack: Rack,
) -> None:
    # The same Id at two managers is two devices.
    rack.drivers["https://cxl"].memories = {"gpu-0": 512 * GIB}
    await rack.poll("cxl")
    attach = rack.driver.attach

    async def partly(operation: str, host: str, devices: frozenset[str]) -> object:
        done = await attach(operation, host, devices - {"gpu-0"})
        return done if "gpu-0" not in devices else type(done)("", done.phase, failed={"gpu-0": "broken"})

    rack.driver.attach = partly  # type: ignore[method-assign,assignment]
    await rack.ask("n", memory=MEMORY)
    await rack.place_again()
    assert condition(rack.node("n"), "Bound")[0] == "True"
    quarantined = [c for c in rack.claims() if condition(c, "Quarantined")[0] == "True"]
    assert [(c["spec"]["fabric"], c["spec"]["device"]) for c in quarantined] == [("rack", "gpu-0")]
    assert {device for device, _ in rack.driver.pairs} == {"gpu-1", "gpu-2"}
    assert {device for device, _ in rack.drivers["https://cxl"].pairs} == {"gpu-0"}


async def test_a_manager_that_does_not_answer_keeps_its_own_devices_and_no_other_s(rack: Rack) -> None:
    await rack.ask("n", memory=MEMORY, storage=STORAGE)

    async def fail() -> None:
        raise Transient("no answer")

    rack.drivers["https://nvme"].before_inventory = fail
    await rack.poll("nvme")
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert {claim["spec"]["device"] for claim in rack.claims()} == {"vol-0"}
    assert rack.driver.pairs == rack.drivers["https://cxl"].pairs == set()
    # Its Node is kept, too: it still has the drive.
    assert len(rack.tainted()) == 1
    rack.drivers["https://nvme"].before_inventory = nothing
    await rack.poll("nvme")
    assert (rack.claims(), everything(rack), rack.tainted()) == ([], set(), {})


async def nothing() -> None:
    return None


async def test_a_leader_that_ended_between_two_managers_is_followed_by_one_that_completes_the_node(
    rack: Rack,
) -> None:
    class Killed(BaseException):
        pass

    async def die() -> None:
        raise Killed

    rack.driver.before_attach = die
    with pytest.raises(Killed):
        await rack.ask("n", memory=MEMORY)
    assert len(rack.drivers["https://cxl"].pairs) == 1
    rack.driver.before_attach = nothing
    rack.restart()
    for name in ("rack", "cxl", "nvme"):
        await rack.poll(name)
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert len(everything(rack)) == 3


async def test_a_machine_with_somebody_elses_device_at_one_manager_is_no_place_for_any(rack: Rack) -> None:
    rack.drivers["https://cxl"].pairs = {("mem-0", "blade-0"), ("mem-1", "blade-1")}
    await rack.poll("cxl")
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound") == ("False", "NoHost")
    rack.drivers["https://cxl"].pairs = {("mem-0", "blade-0")}
    await rack.poll("cxl")
    await rack.place_again()
    assert {claim["spec"]["host"] for claim in rack.claims()} == {"sled-1"}


async def test_a_machine_that_a_manager_does_not_reach_is_passed_over_for_what_that_one_has(
    rack: Rack,
) -> None:
    await rack.cluster.patch(
        FABRICS, "cxl", "", {"spec": {"hosts": [{"host": "blade-1", "nodeName": "node-sled-1"}]}}
    )
    await rack.poll("cxl")
    await rack.ask("n", memory=MEMORY)
    assert rack.node("n")["status"]["nodeName"] == "node-sled-1"


async def test_readiness_follows_each_manager_by_itself(rack: Rack) -> None:
    await rack.ask("n", memory=MEMORY)
    cxl = rack.drivers["https://cxl"]
    pairs = set(cxl.pairs)
    cxl.pairs.clear()
    await rack.poll("cxl")
    assert condition(rack.node("n"), "Ready") == ("False", "DeviceMissing")
    # What another manager shows does not make up for it, nor does one that cannot be read in full keep it up.
    await rack.poll()
    assert condition(rack.node("n"), "Ready") == ("False", "DeviceMissing")
    rack.driver.complete = False
    await rack.poll()
    cxl.pairs |= pairs
    await rack.poll("cxl")
    await rack.work("n")
    assert condition(rack.node("n"), "Ready") == ("True", "Ready")


async def test_accelerators_of_any_type_are_bound_together(rack: Rack) -> None:
    rack.drivers["https://cxl"].others = tuple(
        Device(f"tpu-{n}", DeviceKind.ACCELERATOR, {"type": "TPU", "model": "v5e"}, 16 * GIB, True)
        for n in range(2)
    )
    spec = {
        "fabricRef": {"name": "cxl"},
        "selector": {"matchAttributes": {"type": "TPU"}},
        "allowedNamespaces": {},
    }
    await rack.cluster.create(GPU_POOLS, {"metadata": {"name": "tpus"}, "spec": spec})
    await rack.poll("cxl")
    both = [
        {"name": "train", "count": 2, "selector": {"matchAttributes": {"model": "M"}}},
        {"name": "serve", "count": 1, "selector": {"matchAttributes": {"type": "TPU"}}},
    ]
    await rack.ask("n", accelerators=both, memory=MEMORY)
    assert condition(rack.node("n"), "Bound")[0] == "True"
    devices = {(each["request"], each["device"]) for each in rack.node("n")["status"]["devices"]}
    assert devices == {("train", "gpu-0"), ("train", "gpu-1"), ("serve", "tpu-0"), ("kv", "mem-0")}


async def test_a_manager_that_takes_no_changes_keeps_a_machine_from_no_other_manager(rack: Rack) -> None:
    cxl = rack.drivers["https://cxl"]
    cxl.not_writable = dict.fromkeys(cxl.hosts, "it takes no changes")
    await rack.poll("cxl")
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    await rack.ask("m", memory=MEMORY, accelerators=[])
    assert condition(rack.node("m"), "Bound")[0] == "False"

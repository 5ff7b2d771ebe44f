"""What the fields of fabrics, pools and logical nodes change, as it is seen in the devices that a node gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from support.rack import MemoryDriver, Rack, condition, secret
from weft.api.attachment import attachment_name
from weft.api.names import FINALIZER
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    GPU_POOLS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    NAMESPACES,
    NODES,
    STORAGE_POOLS,
    ResourceType,
)
from weft.fabric.driver import Connection, Device, DeviceKind, Operation

GIB = 2**30
EXPRESSIONS = [
    {"key": "model", "operator": "In", "values": ["New"]},
    {"key": "model", "operator": "NotIn", "values": ["Old"]},
    {"key": "grade", "operator": "Exists"},
    {"key": "retired", "operator": "DoesNotExist"},
]
"""Each is true of the device `new` alone."""


@dataclass(frozen=True)
class Sort:
    """One of the three sorts of devices: how it is offered and asked for."""

    pools: ResourceType
    device: DeviceKind
    request: str
    minimum: str
    price: str

    def entry(self, **more: Any) -> dict[str, Any]:
        """A request for one device."""
        amount: dict[str, Any] = {"count": 1} if self.request == "accelerators" else {"size": "1Gi"}
        return {self.request: [{"name": "main", **amount, **more}]}


SORTS = (
    Sort(GPU_POOLS, DeviceKind.ACCELERATOR, "accelerators", "memory", "perDeviceHour"),
    Sort(MEMORY_POOLS, DeviceKind.MEMORY, "memory", "capacity", "perGibibyteHour"),
    Sort(STORAGE_POOLS, DeviceKind.STORAGE, "storage", "capacity", "perGibibyteHour"),
)
of_each_sort = pytest.mark.parametrize("sort", SORTS, ids=lambda sort: sort.request)


@pytest.fixture
async def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    """Two hosts, no device and no pool yet."""
    rack = Rack(monkeypatch, gpus=0)
    await rack.build()
    await rack.cluster.delete(GPU_POOLS, "gpus")
    return rack


async def offer(rack: Rack, sort: Sort, *, pool: str = "things", new_gib: int = 160, **spec: Any) -> None:
    """A pool, open to everybody unless `spec` says otherwise, and the devices `old` and `new` of its sort."""
    rack.driver.others = (
        Device("old", sort.device, {"model": "Old", "retired": "yes"}, 80 * GIB, True),
        Device("new", sort.device, {"model": "New", "grade": "A"}, new_gib * GIB, True),
    )
    body = {"fabricRef": {"name": "rack"}, "selector": {}, "allowedNamespaces": {}, **spec}
    await rack.cluster.create(sort.pools, {"metadata": {"name": pool}, "spec": body})
    await rack.poll()


async def ask(rack: Rack, name: str = "n", **spec: Any) -> list[tuple[str, str]]:
    """(request, device) of each claim for a new LogicalNode."""
    await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})
    await rack.work(name)
    await rack.place_again()
    await rack.work(name)
    claims = [one["spec"] for one in rack.cluster.list(DEVICE_ATTACHMENTS)]
    return sorted((one["request"], one["device"]) for one in claims if one["claimRef"]["name"] == name)


@of_each_sort
@pytest.mark.shows("*Pool.spec.fabricRef.name")
async def test_a_pool_offers_the_devices_of_its_own_fabric_alone(rack: Rack, sort: Sort) -> None:
    await offer(rack, sort, fabricRef={"name": "another"})
    assert await ask(rack, **sort.entry()) == []


@of_each_sort
@pytest.mark.parametrize(
    "selector",
    [{"matchLabels": {"team": "x"}}, *({"matchExpressions": [one]} for one in [
        {"key": "team", "operator": "In", "values": ["x", "y"]},
        {"key": "grade", "operator": "Exists"},
        {"key": "team", "operator": "NotIn", "values": ["none"]},
    ])],
)  # fmt: skip
@pytest.mark.shows(
    "*Pool.spec.allowedNamespaces.matchLabels",
    "*Pool.spec.allowedNamespaces.matchExpressions[].key",
    "*Pool.spec.allowedNamespaces.matchExpressions[].operator",
    "*Pool.spec.allowedNamespaces.matchExpressions[].values",
)
async def test_a_pool_is_open_to_the_namespaces_that_it_selects(
    rack: Rack, sort: Sort, selector: dict[str, Any]
) -> None:
    await rack.cluster.patch(NAMESPACES, "a", "", {"metadata": {"labels": {"team": "none"}}})
    await offer(rack, sort, allowedNamespaces=selector)
    assert await ask(rack, "before", **sort.entry()) == []
    await rack.cluster.patch(NAMESPACES, "a", "", {"metadata": {"labels": {"team": "x", "grade": "A"}}})
    assert len(await ask(rack, "after", **sort.entry())) == 1


@of_each_sort
@pytest.mark.shows("*Pool.spec.maintenance.devices")
async def test_a_device_in_maintenance_is_not_offered(rack: Rack, sort: Sort) -> None:
    await offer(rack, sort, maintenance={"devices": ["new"]})
    assert await ask(rack, "first", **sort.entry()) == [("main", "old")]
    assert await ask(rack, "second", **sort.entry()) == []


@of_each_sort
@pytest.mark.shows("*Pool.spec.jurisdiction", "LogicalNode.spec.placement.jurisdictions")
async def test_a_request_gets_devices_under_the_law_that_it_names(rack: Rack, sort: Sort) -> None:
    await offer(rack, sort, pool="here", selector={"matchAttributes": {"model": "Old"}}, jurisdiction="EU")
    await offer(rack, sort, pool="there", selector={"matchAttributes": {"model": "New"}}, jurisdiction="CH")
    placement = {"placement": {"jurisdictions": ["CH"]}}
    assert await ask(rack, "first", **sort.entry(), **placement) == [("main", "new")]
    assert await ask(rack, "second", **sort.entry(), **placement) == []


@of_each_sort
@pytest.mark.parametrize(
    ("objective", "taken"),
    [("Cost", "old"), ("Packing", "old"), ("Energy", "new"), ("Latency", "old"), (None, "old")],
)
@pytest.mark.shows(
    "*Pool.spec.power.idleWatts", "*Pool.spec.power.busyWatts", "LogicalNode.spec.placement.objective"
)
async def test_the_objective_energy_takes_what_draws_fewer_watts_more_though_it_draws_more_in_all(
    rack: Rack, sort: Sort, objective: str | None, taken: str
) -> None:
    cheap, frugal = {"cost": {sort.price: "1"}}, {"cost": {sort.price: "2"}}
    await offer(
        rack, sort, pool="cheap", selector={"matchAttributes": {"model": "Old"}}, new_gib=80, **cheap,
        power={"busyWatts": 500},
    )  # fmt: skip
    await offer(
        rack, sort, pool="frugal", selector={"matchAttributes": {"model": "New"}}, new_gib=80, **frugal,
        power={"busyWatts": 600, "idleWatts": 200},
    )  # fmt: skip
    placement = {"placement": {"objective": objective}} if objective else {}
    assert await ask(rack, **sort.entry(), **placement) == [("main", taken)]


@of_each_sort
@pytest.mark.parametrize("only_new", [
    *({"matchExpressions": [one]} for one in EXPRESSIONS),
    {"matchAttributes": {"model": "New"}},
    {"minimum": "100Gi"},
], ids=str)  # fmt: skip
@pytest.mark.shows(
    "*Pool.spec.selector.matchAttributes",
    "*Pool.spec.selector.matchExpressions[].key",
    "*Pool.spec.selector.matchExpressions[].operator",
    "*Pool.spec.selector.matchExpressions[].values",
    "*Pool.spec.selector.minimum.memory",
    "*Pool.spec.selector.minimum.capacity",
    "LogicalNode.spec.*[].selector.matchAttributes",
    "LogicalNode.spec.*[].selector.matchExpressions[].key",
    "LogicalNode.spec.*[].selector.matchExpressions[].operator",
    "LogicalNode.spec.*[].selector.matchExpressions[].values",
    "LogicalNode.spec.*[].selector.minimum.memory",
    "LogicalNode.spec.*[].selector.minimum.capacity",
)
@pytest.mark.parametrize("selects", ["pool", "request"])
async def test_a_pool_offers_and_a_request_gets_what_it_selects(
    rack: Rack, sort: Sort, only_new: dict[str, Any], selects: str
) -> None:
    selector = {"minimum": {sort.minimum: only_new["minimum"]}} if "minimum" in only_new else only_new
    await offer(rack, sort, **({"selector": selector} if selects == "pool" else {}))
    asked = sort.entry(**({"selector": selector} if selects == "request" else {}))
    assert await ask(rack, "first", **asked) == [("main", "new")]
    assert await ask(rack, "second", **asked) == []


@of_each_sort
@pytest.mark.parametrize(("cheaper", "device"), [("Old", "old"), ("New", "new")])
@pytest.mark.shows("*Pool.spec.cost.perDeviceHour", "*Pool.spec.cost.perGibibyteHour")
async def test_of_equal_devices_the_cheaper_are_used_first(
    rack: Rack, sort: Sort, cheaper: str, device: str
) -> None:
    for model in ("Old", "New"):
        cost = {sort.price: "0.10" if model == cheaper else "2.10"}
        selector = {"matchAttributes": {"model": model}}
        await offer(rack, sort, pool=f"pool-{model.lower()}", new_gib=80, selector=selector, cost=cost)
    assert await ask(rack, **sort.entry()) == [("main", device)]


@of_each_sort
@pytest.mark.shows("LogicalNode.spec.*[].name", "DeviceAttachment.spec.request")
async def test_a_device_says_which_request_it_serves(rack: Rack, sort: Sort) -> None:
    await offer(rack, sort)
    assert [request for request, _ in await ask(rack, **sort.entry(name="draft"))] == ["draft"]
    assert [one["request"] for one in rack.node("n")["status"]["devices"]] == ["draft"]


@pytest.mark.shows("LogicalNode.spec.accelerators[].count")
async def test_a_request_gets_as_many_accelerators_as_it_counts(rack: Rack) -> None:
    await offer(rack, SORTS[0])
    assert len(await ask(rack, accelerators=[{"name": "main", "count": 2}])) == 2


@pytest.mark.parametrize("sort", SORTS[1:], ids=lambda sort: sort.request)
@pytest.mark.parametrize(
    ("size", "devices"), [("70Gi", ["old"]), ("90Gi", ["new"]), ("200Gi", ["new", "old"])]
)
@pytest.mark.shows("LogicalNode.spec.memory[].size", "LogicalNode.spec.storage[].size")
async def test_a_request_gets_devices_that_hold_its_size(
    rack: Rack, sort: Sort, size: str, devices: list[str]
) -> None:
    await offer(rack, sort)
    assert [device for _, device in await ask(rack, **sort.entry(size=size))] == devices


def _place(region: str, zone: str) -> dict[str, str]:
    return {"topology.kubernetes.io/region": region, "topology.kubernetes.io/zone": f"{region}-{zone}"}


@pytest.mark.parametrize("host", [
    {"nodeSelector": {"matchLabels": {"disk": "fast"}}},
    {"nodeSelector": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["fast"]}]}},
    {"nodeSelector": {"matchExpressions": [{"key": "slow", "operator": "DoesNotExist"}]}},
    {"nodeSelector": {"matchLabels": {"topology.kubernetes.io/region": "eu-central"}}},
    {"nodeSelector": {"matchLabels": {"topology.kubernetes.io/zone": "eu-central-b"}}},
    {"requests": {"cpu": "40"}},
    {"requests": {"memory": "300Gi"}},
], ids=str)  # fmt: skip
@pytest.mark.shows(
    "LogicalNode.spec.host.nodeSelector.matchLabels",
    "LogicalNode.spec.host.nodeSelector.matchExpressions[].key",
    "LogicalNode.spec.host.nodeSelector.matchExpressions[].operator",
    "LogicalNode.spec.host.nodeSelector.matchExpressions[].values",
    "LogicalNode.spec.host.requests.cpu",
    "LogicalNode.spec.host.requests.memory",
)
async def test_a_host_is_one_that_suits(rack: Rack, host: dict[str, Any]) -> None:
    for name, labels, cpu, memory in (
        ("node-sled-0", {"slow": "yes", **_place("us-east", "a")}, "32", "256Gi"),
        ("node-sled-1", {"disk": "fast", **_place("eu-central", "b")}, "64", "512Gi"),
    ):
        node = await rack.cluster.patch(NODES, name, "", {"metadata": {"labels": labels}})
        status = {**node["status"], "allocatable": {"cpu": cpu, "memory": memory}}
        await rack.cluster.write_status(NODES, node, status)
    await offer(rack, SORTS[0])
    asked = {**SORTS[0].entry(), "host": host}
    assert len(await ask(rack, "first", **asked)) == 1
    assert rack.node("first")["status"]["nodeName"] == "node-sled-1"
    assert await ask(rack, "second", **asked) == []


@pytest.mark.parametrize(("toleration", "is_place"), [
    ({"key": "gpu", "value": "only"}, True),
    ({"key": "gpu", "operator": "Exists"}, True),
    ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, True),
    ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
    ({"key": "gpu", "value": "other"}, False),
    ({"key": "else", "operator": "Exists"}, False),
], ids=str)  # fmt: skip
@pytest.mark.shows(
    "LogicalNode.spec.host.tolerations[].key",
    "LogicalNode.spec.host.tolerations[].operator",
    "LogicalNode.spec.host.tolerations[].value",
    "LogicalNode.spec.host.tolerations[].effect",
)
async def test_a_host_with_a_taint_is_a_place_for_who_tolerates_it(
    rack: Rack, toleration: dict[str, Any], is_place: bool
) -> None:
    taint = {"key": "gpu", "value": "only", "effect": "NoSchedule"}
    for host in rack.hosts:
        await rack.cluster.patch(NODES, f"node-{host}", "", {"spec": {"taints": [taint]}})
    await offer(rack, SORTS[0])
    devices = await ask(rack, **SORTS[0].entry(), host={"tolerations": [toleration]})
    assert (len(devices) == 1) is is_place
    if not is_place:
        assert condition(rack.node("n"), "Bound") == ("False", "NoHost")
        assert "node-sled-0 (tainted gpu:NoSchedule)" in str(rack.node("n")["status"])


async def test_a_cordoned_host_is_no_place_whatever_is_tolerated(rack: Rack) -> None:
    for host in rack.hosts:
        await rack.cluster.patch(NODES, f"node-{host}", "", {"spec": {"unschedulable": True}})
    await offer(rack, SORTS[0])
    tolerations = [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]
    assert await ask(rack, **SORTS[0].entry(), host={"tolerations": tolerations}) == []


@pytest.mark.shows("LogicalNode.spec.ttlSecondsAfterBound")
async def test_a_node_is_released_when_its_time_is_up(rack: Rack) -> None:
    await offer(rack, SORTS[0])
    await ask(rack, **SORTS[0].entry(), ttlSecondsAfterBound=60)
    assert condition(rack.node("n"), "Bound")[0] == "True"
    rack.clock.forward(timedelta(seconds=61).total_seconds())
    await rack.work("n")
    await rack.poll()
    await rack.work("n")
    assert condition(rack.node("n"), "Expired")[0] == "True"
    assert rack.claims() == []


@pytest.mark.shows(
    "Fabric.spec.driver",
    "Fabric.spec.credentialsSecretRef.name",
    "Fabric.spec.tls.caSecretRef.name",
    "Fabric.spec.limits.maxInFlight",
    "Fabric.spec.limits.requestsPerSecond",
    "Fabric.spec.limits.requestTimeoutSeconds",
    "Fabric.spec.carve.memory",
    "Fabric.spec.carve.storage",
)
async def test_a_manager_is_reached_with_the_driver_secrets_and_limits_of_its_fabric(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, Connection]] = []

    def open_driver(name: str, connection: Connection, _called: object) -> MemoryDriver:
        opened.append((name, connection))
        return rack.driver

    monkeypatch.setattr("weft.binding.fabrics.open_driver", open_driver)
    rack.secrets["login"] = secret(username=b"weft", password=b"s3cret")
    rack.secrets["ca"] = secret(**{"ca.crt": b"PEM"})
    await rack.edit_fabric(
        driver="other",
        credentialsSecretRef={"name": "login"},
        tls={"caSecretRef": {"name": "ca"}},
        limits={"maxInFlight": 3, "requestsPerSecond": 7, "requestTimeoutSeconds": 5},
        carve={"memory": "64Gi", "storage": "1Ti"},
    )
    parts = {DeviceKind.MEMORY: 64 << 30, DeviceKind.STORAGE: 1 << 40}
    connection = Connection("https://rack", "weft", "s3cret", "PEM", 3, 7.0, 5.0, part_bytes=parts)
    assert opened == [("other", connection)]


@pytest.mark.shows("Fabric.spec.hosts[].host", "Fabric.spec.hosts[].nodeName")
async def test_devices_go_to_the_host_that_the_node_runs_on_and_to_none_without_a_node(rack: Rack) -> None:
    await rack.edit_fabric(hosts=[{"host": "sled-0", "nodeName": "node-sled-1"}])
    await offer(rack, SORTS[0])
    await ask(rack, "first", **SORTS[0].entry())
    status = rack.node("first")["status"]
    assert (status["nodeName"], {host for _, host in rack.driver.pairs}) == ("node-sled-1", {"sled-0"})
    assert await ask(rack, "second", **SORTS[0].entry()) == []


@pytest.mark.shows(
    "DeviceAttachment.spec.fabric",
    "DeviceAttachment.spec.device",
    "DeviceAttachment.spec.host",
    "DeviceAttachment.spec.operation",
    "DeviceAttachment.spec.claimRef.namespace",
    "DeviceAttachment.spec.claimRef.name",
)
async def test_a_claim_that_a_dead_leader_left_is_carried_out_from_its_record_alone(rack: Rack) -> None:
    await offer(rack, SORTS[0])
    looked_for: list[str] = []
    find = rack.driver.find_operation

    async def remember(key: str) -> Operation | None:
        looked_for.append(key)
        return await find(key)

    rack.driver.find_operation = remember  # type: ignore[method-assign]
    body = {"metadata": {"name": "n", "namespace": "a"}, "spec": SORTS[0].entry()}
    uid = (await rack.cluster.create(LOGICAL_NODES, body))["metadata"]["uid"]
    claim = {
        "fabric": "rack",
        "device": "old",  # not the one that placement would choose first
        "poolRef": {"kind": "GPUPool", "name": "things"},
        "host": "sled-1",
        "nodeName": "node-sled-1",
        "operation": "op-of-the-dead",
        "request": "main",
        "claimSize": 1,
        "claimRef": {"namespace": "a", "name": "n", "uid": uid},
    }
    metadata = {"name": attachment_name("rack", "old"), "finalizers": [FINALIZER]}
    await rack.cluster.create(DEVICE_ATTACHMENTS, {"metadata": metadata, "spec": claim})
    rack.restart()
    await rack.poll()
    await rack.work("n")
    assert rack.driver.pairs == {("old", "sled-1")}
    assert looked_for == ["op-of-the-dead"]
    assert condition(rack.node("n"), "Bound")[0] == "True"


@pytest.mark.shows(
    "LogicalNode.spec.placement.constraints[].attribute", "LogicalNode.spec.placement.constraints[].policy"
)
async def test_accelerators_share_the_domain_that_is_asked_for(rack: Rack) -> None:
    await offer(rack, SORTS[0])
    rack.driver.others = tuple(
        Device(name, DeviceKind.ACCELERATOR, {"nvlinkDomain": name[:5]}, 80 * GIB, True)
        for name in ("nvl-0.a", "nvl-1.a", "nvl-1.b")
    )
    await rack.poll()
    pair = {"accelerators": [{"name": "main", "count": 2}]}
    required = {"placement": {"constraints": [{"attribute": "nvlinkDomain", "policy": "Required"}]}}
    assert await ask(rack, "first", **pair, **required) == [("main", "nvl-1.a"), ("main", "nvl-1.b")]
    await rack.cluster.delete(LOGICAL_NODES, "first", "a")
    await rack.work("first")
    rack.driver.others = (*rack.driver.others[:2], replace(rack.driver.others[2], healthy=False))
    await rack.poll()
    assert await ask(rack, "second", **pair, **required) == []
    preferred = {"placement": {"constraints": [{"attribute": "nvlinkDomain", "policy": "Preferred"}]}}
    assert len(await ask(rack, "third", **pair, **preferred)) == 2

"""What placement makes of objects as they are stored: alternatives, constraints, and what is no place."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from weft.binding.inventory import Picture
from weft.binding.offers import Reader, Snapshot
from weft.binding.plan import Placement
from weft.binding.search import place
from weft.cluster import Object
from weft.fabric.driver import Device, DeviceKind, Host, Inventory

NOW = datetime(2026, 1, 2, tzinfo=UTC)
GIB = 2**30
KINDS = {"accelerators": "GPUPool", "memory": "MemoryPool", "storage": "StoragePool"}
DEVICE_KINDS = {
    "accelerators": DeviceKind.ACCELERATOR,
    "memory": DeviceKind.MEMORY,
    "storage": DeviceKind.STORAGE,
}
MINIMUM = {"accelerators": "memory", "memory": "capacity", "storage": "capacity"}


def obj(kind: str, name: str, spec: Object, **more: Any) -> Object:
    metadata = {"name": name, "uid": f"uid-{kind}-{name}", "resourceVersion": "1", "generation": 1}
    metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
    metadata |= more.pop("metadata", {})
    return {"kind": kind, "metadata": metadata, "spec": spec, **more}


def node(name: str, *, labels: dict[str, str] | None = None, cpu: str = "8", **spec: Any) -> Object:
    status = {
        "allocatable": {"cpu": cpu, "memory": "64Gi"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    return obj("Node", name, spec, metadata={"labels": labels or {}}, status=status)


class Site:
    """One fabric with the devices `<list>-a` (model A, 1 GiB) and `<list>-b` (model B, 2 GiB) and two hosts."""

    def __init__(self) -> None:
        devices = [
            Device(f"{each}-{letter}", DEVICE_KINDS[each], attributes(letter), size * GIB, True)
            for each in KINDS
            for letter, size in (("a", 1), ("b", 2))
        ]
        hosts = (Host("sled-0", {}, True), Host("sled-1", {}, True))
        self.inventory = Inventory(tuple(devices), hosts, (), True)
        self.pools = {each: [self.pool(each, f"{each}-pool")] for each in KINDS}
        self.nodes = [node("n0", labels={"zone": "a"}), node("n1", labels={"zone": "b"}, cpu="32")]
        listed = [{"host": f"sled-{n}", "nodeName": f"n{n}"} for n in range(2)]
        self.fabric = obj("Fabric", "rack", {"endpoint": "https://f", "mode": "Manage", "hosts": listed})
        self.namespace = obj("Namespace", "a", {}, metadata={"labels": {"team": "a"}})
        self.claims: list[Object] = []
        self.quotas: list[Object] = []

    def pool(self, list_: str, name: str, **spec: Any) -> Object:
        whole = {"fabricRef": {"name": "rack"}, "allowedNamespaces": {}, **spec}
        return obj(KINDS[list_], name, whole)

    def snapshot(self, *requests: Object) -> Snapshot:
        return Snapshot(
            logical_nodes=requests,
            claims=tuple(self.claims),
            gpu_pools=tuple(self.pools["accelerators"]),
            memory_pools=tuple(self.pools["memory"]),
            storage_pools=tuple(self.pools["storage"]),
            quotas=tuple(self.quotas),
            fabrics=(self.fabric,),
            namespaces=(self.namespace,),
            nodes=tuple(self.nodes),
            pictures={"rack": Picture(self.inventory)},
        )

    def place(self, **spec: Any) -> Placement:
        snapshot = self.snapshot(obj("LogicalNode", "r", spec, metadata={"namespace": "a"}))
        reader = Reader()
        return place(reader.waiting(snapshot, NOW), reader.stock(snapshot))

    def gets(self, **spec: Any) -> list[str]:
        """The devices that the request gets, or the reason why it gets none."""
        placement = self.place(**spec)
        if placement.refusals:
            return [placement.refusals[0].reason]
        return sorted(item.offer.device.id for item in placement.assignments[0].devices)


def attributes(letter: str) -> dict[str, str]:
    return {"model": letter.upper(), "linkDomain": f"domain-{letter}"}


def entry(list_: str, **fields: Any) -> Object:
    amount = {"count": 1} if list_ == "accelerators" else {"size": "1Gi"}
    return {"name": "main", **amount, **fields}


@pytest.fixture
def site() -> Site:
    return Site()


EXPRESSION = {"matchExpressions": [{"key": "model", "operator": "NotIn", "values": ["A"]}]}


@pytest.mark.shows(
    "LogicalNode.spec.accelerators[].firstAvailable[].name",
    "LogicalNode.spec.memory[].firstAvailable[].name",
    "LogicalNode.spec.storage[].firstAvailable[].name",
    "LogicalNode.spec.accelerators[].firstAvailable[].selector.matchAttributes",
    "LogicalNode.spec.memory[].firstAvailable[].selector.matchAttributes",
    "LogicalNode.spec.storage[].firstAvailable[].selector.matchAttributes",
    "LogicalNode.spec.accelerators[].firstAvailable[].selector.matchExpressions[].key",
    "LogicalNode.spec.accelerators[].firstAvailable[].selector.matchExpressions[].operator",
    "LogicalNode.spec.accelerators[].firstAvailable[].selector.matchExpressions[].values",
    "LogicalNode.spec.memory[].firstAvailable[].selector.matchExpressions[].key",
    "LogicalNode.spec.memory[].firstAvailable[].selector.matchExpressions[].operator",
    "LogicalNode.spec.memory[].firstAvailable[].selector.matchExpressions[].values",
    "LogicalNode.spec.storage[].firstAvailable[].selector.matchExpressions[].key",
    "LogicalNode.spec.storage[].firstAvailable[].selector.matchExpressions[].operator",
    "LogicalNode.spec.storage[].firstAvailable[].selector.matchExpressions[].values",
    "LogicalNode.spec.accelerators[].firstAvailable[].selector.minimum.memory",
    "LogicalNode.spec.memory[].firstAvailable[].selector.minimum.capacity",
    "LogicalNode.spec.storage[].firstAvailable[].selector.minimum.capacity",
)
@pytest.mark.parametrize("list_", KINDS)
def test_a_request_gets_the_first_alternative_that_is_there(site: Site, list_: str) -> None:
    for selector in (
        {"matchAttributes": {"model": "B"}},
        EXPRESSION,
        {"minimum": {MINIMUM[list_]: "2Gi"}},
    ):
        alternatives = [
            {"name": "best", "selector": {"matchAttributes": {"model": "C"}}},
            {"name": "good", "selector": selector},
            {"name": "any"},
        ]
        placement = site.place(**{list_: [entry(list_, firstAvailable=alternatives)]})
        ((chosen,),) = [each.devices for each in placement.assignments]
        assert (chosen.offer.device.id, chosen.alternative) == (f"{list_}-b", "good")


@pytest.mark.shows(
    "LogicalNode.spec.placement.constraints[].requests",
    "LogicalNode.spec.placement.constraints[].attribute",
    "LogicalNode.spec.placement.constraints[].policy",
)
def test_a_constraint_is_about_its_requests_or_all_accelerators(site: Site) -> None:
    spec = {"accelerators": [entry("accelerators")], "memory": [entry("memory") | {"name": "kv"}]}
    pinned = entry("memory", selector={"matchAttributes": {"model": "B"}}) | {"name": "kv"}

    def with_constraint(memory: Object, **constraint: Any) -> list[str]:
        placement = {"constraints": [{"attribute": "linkDomain", **constraint}]}
        return site.gets(**{**spec, "memory": [memory]}, placement=placement)

    assert with_constraint(pinned) == ["accelerators-a", "memory-b"]
    assert with_constraint(pinned, requests=["main", "kv"]) == ["accelerators-b", "memory-b"]
    two = {"accelerators": [entry("accelerators", count=2)], "memory": []}
    required = {"constraints": [{"attribute": "linkDomain"}]}
    preferred = {"constraints": [{"attribute": "linkDomain", "policy": "Preferred"}]}
    assert site.gets(**two, placement=required) == ["NoSuchDevices"]
    assert site.gets(**two, placement=preferred) == ["accelerators-a", "accelerators-b"]


def test_what_was_promised_or_is_claimed_is_not_offered(site: Site) -> None:
    spec = {
        "fabric": "rack",
        "device": "accelerators-a",
        "poolRef": {"kind": "GPUPool", "name": "accelerators-pool"},
        "host": "sled-0",
        "nodeName": "node-sled-0",
        "operation": "op",
        "request": "main",
        "claimSize": 1,
        "claimRef": {"namespace": "b", "name": "other", "uid": "u"},
    }
    site.claims = [obj("DeviceAttachment", "rack.accelerators-a", spec)]
    placement = site.place(accelerators=[entry("accelerators")])
    (assignment,) = placement.assignments
    assert [item.offer.device.id for item in assignment.devices] == ["accelerators-b"]
    # The claim's host has its logical node.
    assert assignment.host.host == "sled-1"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"unschedulable": True}, "n1 (cordoned)"),
        ({"taints": [{"key": "gpu", "effect": "NoSchedule"}]}, "n1 (tainted gpu:NoSchedule)"),
        ({"taints": [{"key": "out", "value": "1", "effect": "NoExecute"}]}, "n1 (tainted out:NoExecute)"),
        ({"taints": [{"key": "soft", "effect": "PreferNoSchedule"}]}, ""),
    ],
)
def test_a_node_that_takes_no_pods_is_no_place_and_is_named(site: Site, spec: Object, why: str) -> None:
    site.nodes = [node("n1", **spec)]
    placement = site.place(accelerators=[entry("accelerators")])
    if why:
        assert placement.refusals[0].reason == "NoHost"
        assert why in placement.refusals[0].message
    else:
        assert len(placement.assignments) == 1


def test_what_pools_offer_is_made_anew_when_a_pool_is_edited_and_not_when_its_devices_are_counted(
    site: Site,
) -> None:
    reader = Reader()
    before = reader.stock(site.snapshot()).offers
    (pool,) = site.pools["accelerators"]
    site.pools["accelerators"] = [{**pool, "status": {"devices": {"total": 2, "free": 1}}}]
    counted = reader.stock(site.snapshot()).offers
    assert [id(each) for each in counted] == [id(each) for each in before]
    metadata = {**pool["metadata"], "generation": 2}
    spec = {**pool["spec"], "maintenance": {"devices": ["accelerators-a"]}}
    site.pools["accelerators"] = [{**pool, "metadata": metadata, "spec": spec}]
    edited = reader.stock(site.snapshot()).offers
    assert [each.device.id for each in edited if not each.free] == ["accelerators-a"]

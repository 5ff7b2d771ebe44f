"""Objects that another version stored and this one cannot read: each costs itself, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from support.rack import Rack, condition
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    DEVICE_QUOTAS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    STORAGE_POOLS,
    ResourceType,
)


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


def store(rack: Rack, resource: ResourceType, spec: Any, name: str = "odd", namespace: str = "a") -> None:
    """Put an object where no schema has looked at it."""
    namespace = namespace if resource.namespaced else ""
    metadata = {"name": name, "uid": f"{resource.plural}-{name}", "resourceVersion": "1", "generation": 1}
    if namespace:
        metadata["namespace"] = namespace
    obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}
    rack.cluster.objects[resource, namespace, name] = obj


@pytest.mark.parametrize(
    ("resource", "spec"),
    [
        (FABRICS, {"endpoint": 7}),
        (GPU_POOLS, {"fabricRef": "rack"}),
        (MEMORY_POOLS, {"fabricRef": "rack"}),
        (STORAGE_POOLS, {"fabricRef": "rack"}),
        (LOGICAL_NODES, {"accelerators": "two"}),
    ],
    ids=lambda each: getattr(each, "kind", ""),
)
async def test_an_object_that_cannot_be_read_keeps_nobody_from_a_place(
    rack: Rack, resource: ResourceType, spec: Any
) -> None:
    await rack.build()
    store(rack, resource, spec)
    if resource == FABRICS:
        with pytest.raises(ValueError, match=r"spec\.endpoint"):
            await rack.poll("odd")
    await rack.poll()
    await rack.settle()
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound") == ("True", "Bound")


async def test_a_claim_that_cannot_be_read_withholds_its_device_and_its_host(rack: Rack) -> None:
    await rack.build()
    odd = {"fabric": "rack", "device": "gpu-0", "host": "sled-0", "nodeName": "node-sled-0", "request": 7}
    store(
        rack,
        DEVICE_ATTACHMENTS,
        {**odd, "claimRef": {"namespace": "b", "name": "older", "uid": "u"}},
        "rack.gpu-0",
    )
    await rack.ask("n", gpus=3)
    status = rack.node("n")["status"]
    assert status["nodeName"] == "node-sled-1"
    assert {each["device"] for each in status["devices"]} == {"gpu-1", "gpu-2", "gpu-3"}


async def test_a_quota_that_cannot_be_read_grants_nothing_in_its_namespace_alone(rack: Rack) -> None:
    await rack.build()
    store(rack, DEVICE_QUOTAS, {"limits": 7}, namespace="b")
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    store(rack, DEVICE_QUOTAS, {"limits": 7})
    await rack.ask("m", gpus=1)
    assert condition(rack.node("m"), "Bound")[0] == "False"

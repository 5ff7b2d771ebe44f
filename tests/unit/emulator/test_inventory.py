"""Inventory files: what they expand to, and what is said about wrong ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from weft.emulator.inventory import FABRIC_TYPES, InventoryError, load, parse

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "emulator" / "rack-a.yaml"


def inventory(**device: Any) -> dict[str, Any]:
    group = {"name": "gpu", "type": "GPU", "model": "H200", "memory": "141Gi", **device}
    return {"hosts": [{"name": "sled"}], "devices": [group]}


def test_the_example_is_the_demos_rack() -> None:
    world = load(EXAMPLE)
    assert len(world.hosts) == 26
    assert Counter(device.model for device in world.devices.values()) == {
        "A100-80GB": 48,
        "H200": 12,
        "CXL-512": 16,
        "NVMe-4T": 8,
    }
    domains = Counter(
        device.domains.get("nvlink") for device in world.devices.values() if device.type == "GPU"
    )
    assert sorted(domains.values()) == [4, 8, 8, 8, 8, 8, 8, 8]
    assert all(world.reaches(host, device) for host in world.hosts for device in world.devices)


def test_a_series_of_domains_takes_so_many_members_each() -> None:
    world = parse(
        inventory(count=5, first=10, domains={"nvlinkDomain": {"prefix": "nvl", "size": 2, "first": 3}})
    )
    assert {name: device.domains["nvlink"] for name, device in world.devices.items()} == {
        "gpu-10": "nvl-3",
        "gpu-11": "nvl-3",
        "gpu-12": "nvl-4",
        "gpu-13": "nvl-4",
        "gpu-14": "nvl-5",
    }


@pytest.mark.parametrize(
    ("text", "size"),
    [("80Gi", 80 * 2**30), ("4T", 4 * 10**12), (1048576, 2**20), ("2 Ti", None), ("80GB", None)],
)
def test_sizes_are_read_with_their_units(text: object, size: int | None) -> None:
    if size is None:
        with pytest.raises(InventoryError, match="is not a size"):
            parse(inventory(memory=text))
    else:
        assert parse(inventory(memory=text)).devices["gpu"].capacity_bytes == size


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (inventory(memory=None), "a device of type GPU has `memory` and no `size`"),
        (inventory(size="4T"), "a device of type GPU has `memory` and no `size`"),
        (inventory(type="TPU"), "devices.0.type"),
        (inventory(colour="red"), "devices.0.colour"),
        (inventory(count=0), "devices.0.count"),
        (inventory(name="../gpu"), "devices.0.name"),
        (inventory(memory="1Ki"), "devices.0.memory"),
        (inventory(domains={"sueDomain": "s-0"}), "unknown domain 'sueDomain'; known: nvlinkDomain"),
        (inventory(name="host-sled"), "has the name of a host's own block"),
        (inventory() | {"hosts": [{"name": "a"}, {"name": "a"}]}, "hosts appear twice: a"),
        (inventory() | {"fabrics": {"rdma": "CXL"}}, "known: InfiniBand, RoCE"),
        (inventory() | {"faults": [{"kind": "explode"}]}, "faults.0.kind"),
        ({"hosts": []}, "hosts"),
        (None, "inventory"),
        (
            {"apiVersion": "weft.dev/v1alpha2", "kind": "Fabric", "metadata": {"name": "rack"}, "spec": {}},
            "a Kubernetes object, a Fabric, and no inventory",
        ),
    ],
)
def test_a_wrong_inventory_is_refused_with_the_place(wrong: object, said: str) -> None:
    with pytest.raises(InventoryError) as caught:
        parse(wrong)
    assert said in str(caught.value)


def test_a_domain_of_every_protocol_that_redfish_knows() -> None:
    for fabric, kinds in FABRIC_TYPES.items():
        for kind in kinds:
            world = parse(
                {
                    "hosts": [{"name": "sled"}],
                    "devices": [
                        {
                            "name": "gpu",
                            "type": "GPU",
                            "model": "X",
                            "memory": "1Gi",
                            "domains": {f"{fabric}Domain": "d"},
                        }
                    ],
                    "fabrics": {fabric: kind},
                }
            )
            assert world.fabrics[fabric] == kind
    assert sum(len(kinds) for kinds in FABRIC_TYPES.values()) == 43

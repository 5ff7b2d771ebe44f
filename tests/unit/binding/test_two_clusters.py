"""Two control planes at one fabric manager: neither takes, counts as free, or detaches what the other has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.emulator_thread import EmulatorThread
from support.rack import Rack, condition
from weft.api.resources import FABRICS, LOGICAL_NODES, NAMESPACES
from weft.emulator.main import Settings
from weft.emulator.quirks import Quirks
from weft.fabric.installed import open_driver

INVENTORY = {
    "name": "shared",
    "hosts": [{"name": "sled", "count": 4}],
    "devices": [{"name": "gpu", "type": "GPU", "count": 4, "model": "H200", "memory": "141Gi"}],
}


class Clusters:
    """The east has the machines sled-0 and sled-1, the west the other two; both reach all devices."""

    def __init__(self, east: Rack, west: Rack) -> None:
        self.east, self.west = east, west

    async def poll(self) -> None:
        for rack in (self.east, self.west):
            await rack.poll()
            await rack.place_again()

    def pairs(self) -> dict[str, set[str]]:
        """By device, the hosts at which either cluster's picture shows it."""
        found: dict[str, set[str]] = {}
        for rack in (self.east, self.west):
            picture = rack.fabrics.last_pictures()["rack"]
            for device, host in picture.inventory.attachments:
                found.setdefault(device, set()).add(host)
        return found


@pytest.fixture(params=["compose-by-patch", "connections"])
async def clusters(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Clusters]:
    """A manager that would attach a device twice; one of these two keeps marks."""
    settings = Settings(dialect=request.param, quirks=Quirks.parse("permit-duplicates"), permissive=True)
    with EmulatorThread(INVENTORY, settings) as emulator:
        racks = []
        for name, machines in (("east", (0, 1)), ("west", (2, 3))):
            rack = Rack(monkeypatch)
            rack.hosts = [f"sled-{n}" for n in machines]
            monkeypatch.setattr("weft.binding.fabrics.open_driver", open_driver)
            # Their UIDs tell them apart.
            rack.cluster.objects.update(
                {
                    (NAMESPACES, "", "kube-system"): {
                        "metadata": {
                            "name": "kube-system",
                            "uid": f"{name.encode().hex()}-0000-0000",
                            "resourceVersion": "1",
                        }
                    }
                }
            )
            limits = {
                "settleSeconds": 1,
                "requestTimeoutSeconds": 5,
                "requestsPerSecond": 1000,
                "orphanSeconds": 1,
            }
            await rack.build(endpoint=emulator.url, orphanPolicy="Detach", limits=limits)
            racks.append(rack)
        yield Clusters(*racks)
        for rack in racks:
            await rack.fabrics.close()


async def test_each_device_goes_to_one_cluster_and_stays_with_it_until_that_one_gives_it_back(
    clusters: Clusters,
) -> None:
    east, west = clusters.east, clusters.west
    # Both read before either attaches: placement chooses the same devices, and the manager would permit it.
    await east.ask("e", gpus=2)
    await west.ask("w", gpus=2)
    assert "PlaceLost" in {reason for _, reason, _ in west.cluster.events}
    for _ in range(3):
        await clusters.poll()
    assert all(len(hosts) == 1 for hosts in clusters.pairs().values())
    assert condition(east.node("e"), "Bound")[0] == condition(west.node("w"), "Bound")[0] == "True"
    assert condition(east.node("e"), "Ready")[0] == condition(west.node("w"), "Ready")[0] == "True"
    before = clusters.pairs()
    assert len(before) == 4

    # Orphans are detached here, in time; what the other cluster has is none.
    for rack in (east, west):
        rack.clock.forward(100_000)
    for _ in range(3):
        await clusters.poll()
    assert clusters.pairs() == before

    # A third request finds nothing free, and gets what is given back.
    await east.ask("more", gpus=2)
    assert condition(east.node("more"), "Bound") == ("False", "NotEnoughDevices")
    await west.cluster.delete(LOGICAL_NODES, "w", "a")
    await west.work("w")
    for _ in range(3):
        await clusters.poll()
    await east.work("more")
    assert condition(east.node("more"), "Bound")[0] == "True"
    assert {host for hosts in clusters.pairs().values() for host in hosts} == {"sled-0", "sled-1"}


async def test_where_the_manager_keeps_marks_the_other_clusters_devices_are_counted(
    clusters: Clusters, request: pytest.FixtureRequest
) -> None:
    await clusters.west.ask("w", gpus=2)
    await clusters.poll()
    status = (clusters.east.cluster.get(FABRICS, "rack") or {})["status"]
    if "connections" in request.node.name:
        assert "2 devices not used: 2 carry another owner's mark" in status["notUsed"]
    said = next(each for each in status["conditions"] if each["type"] == "NoOrphans")
    assert said["reason"] == "OrphansFound"
    assert "mark" not in str(clusters.west.cluster.get(FABRICS, "rack"))

"""A bind in every dialect as clients of others read it: sushy (OpenStack) and redfish with redfish_utilities (DMTF).

Neither has types for zones and connections of fabrics: there, sushy's typed endpoints are followed to what they link.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redfish
import redfish_utilities
import sushy
from sushy import auth
from sushy.resources.compositionservice.constants import CompositionState
from sushy.resources.fabric.constants import EntityRole

from support.dialects import ALL
from support.emulator_process import PASSWORD, USER, Emulator
from support.judging import busy_emulator
from support.sushy_view import ids, resource_blocks

BOUND = {"gpu-0": "PCIe", "cxl-0": "CXL", "nvme-0": "NVMeOverFabrics"}


@pytest.mark.parametrize("dialect", ALL)
def test_other_peoples_clients_read_who_has_what(tmp_path: Path, dialect: str) -> None:
    with busy_emulator(tmp_path, dialect) as emulator:
        login = auth.SessionAuth(USER, PASSWORD)
        with login:
            service = sushy.Sushy(emulator.url, verify=False, auth=login)
            if dialect in ("compose-by-patch", "add-resource-block", "compose-by-post"):
                agree_on_blocks(service, composed=dialect == "compose-by-post")
            else:
                agree_on_endpoints(service, "Zones" if dialect == "zone-endpoints" else "Connections")
        agree_with_dmtf(emulator, dialect)


def agree_on_blocks(service: Any, composed: bool) -> None:
    """sushy's typed blocks are composed, and its typed system lists them."""
    blocks = resource_blocks(service)
    state = {name: blocks[name].composition_status.composition_state for name in (*BOUND, "gpu-1")}
    assert state == dict.fromkeys(BOUND, CompositionState.COMPOSED) | {"gpu-1": CompositionState.UNUSED}
    systems = {system.identity: system for system in service.get_system_collection().get_members()}
    [owner] = [s for s in systems.values() if ids(s.json["Links"]["ResourceBlocks"]) >= set(BOUND)]
    assert composed == owner.identity.startswith("composed-")
    assert (owner.manufacturer, owner.system_type.value) == (
        "Generic",
        "Composed" if composed else "Physical",
    )


def agree_on_endpoints(service: Any, way: str) -> None:
    """What sushy's typed endpoints of a device and of its host link has both of them."""
    for name, kind in BOUND.items():
        fabrics = service.get_fabric_collection().get_members()
        [fabric] = [fabric for fabric in fabrics if fabric.json["FabricType"] == kind]
        ends = {end.path.rpartition("/")[2]: end for end in fabric.endpoints.get_members()}
        device, host = ends[name], ends["host-sled-0"]
        assert device.connected_entities[0].entity_role is EntityRole.TARGET
        assert host.connected_entities[0].entity_role is EntityRole.INITIATOR
        [shared] = ids(device.json["Links"][way]) & ids(host.json["Links"][way])
        path = next(
            item["@odata.id"] for item in device.json["Links"][way] if item["@odata.id"].endswith(shared)
        )
        links = service._conn.get(path).json()["Links"]
        listed = [ids(value) for key, value in links.items() if key.endswith("Endpoints")]
        assert set.union(*listed) >= {name, "host-sled-0"}


def agree_with_dmtf(emulator: Emulator, dialect: str) -> None:
    """DMTF's library finds the systems, and its catalogue the devices where they are in chassis."""
    client = redfish.redfish_client(base_url=emulator.url, username=USER, password=PASSWORD)
    client.login(auth="session")
    with closing(Session(client)):
        systems = redfish_utilities.get_system_ids(client)
        assert len(systems) == (1 if dialect == "compose-by-post" else 2)
        found = {
            entry["Uri"].rpartition("/")[2]
            for chassis in redfish_utilities.get_system_inventory(client)
            for kind in ("Memory", "Drives")
            for entry in chassis[kind]
        }
        if dialect in ("zone-endpoints", "connections", "sunfish"):
            # It looks for processors in systems, not in chassis.
            assert found >= {"cxl-0", "nvme-0"}


class Session:
    """Ends the login of DMTF's client."""

    def __init__(self, client: Any) -> None:
        self.close = client.logout

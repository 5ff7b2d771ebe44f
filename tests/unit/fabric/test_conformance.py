"""The suite that drivers of others are held to: ours passes it in every dialect, and what is broken fails it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.emulator_thread import EmulatorThread
from weft.emulator.main import Settings
from weft.emulator.quirks import Quirks
from weft.fabric.conformance import Bench, DriverConformance
from weft.fabric.driver import Connection
from weft.fabric.redfish import RedfishDriver

INVENTORY: dict[str, Any] = {
    "name": "conformance",
    "hosts": [{"name": "sled", "count": 2, "zones": ["a"]}, {"name": "far", "count": 1, "zones": ["b"]}],
    "devices": [
        {"name": "gpu", "type": "GPU", "count": 4, "model": "H200", "memory": "141Gi", "zones": ["a"]}
    ],
}
SERVICES = {
    "compose-by-patch": ("compose-by-patch", ""),
    "compose-by-patch-careless": (
        "compose-by-patch",
        "tasks,permit-duplicates,changing-etags,500-although-done",
    ),
    "add-resource-block": ("add-resource-block", ""),
}


@pytest.fixture(scope="module", params=SERVICES.values(), ids=SERVICES)
def emulator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmulatorThread]:
    dialect, quirks = request.param
    state = tmp_path_factory.mktemp("emulator") / "state.json"
    settings = Settings(
        state=state, user="weft", password="secret", dialect=dialect, quirks=Quirks.parse(quirks)
    )
    with EmulatorThread(INVENTORY, settings) as running:
        yield running


class TestRedfishDriver(DriverConformance):
    """Weft's own driver."""

    @pytest.fixture
    def bench(self, emulator: EmulatorThread) -> Bench:
        """A manager that asks for a login and can be restarted."""
        connection = Connection(
            emulator.url, "weft", "secret", requests_per_second=5000.0, request_timeout_seconds=5.0
        )
        return Bench(RedfishDriver, connection, restart=emulator.restart)

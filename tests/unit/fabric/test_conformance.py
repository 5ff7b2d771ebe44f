"""The suite that drivers of others are held to: ours passes it in every dialect, and what is broken fails it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.emulator_thread import EmulatorThread
from weft.emulator.dialects import DIALECTS
from weft.emulator.main import Settings
from weft.fabric.conformance import Bench, DriverConformance
from weft.fabric.driver import Connection
from weft.fabric.redfish import RedfishDriver

INVENTORY: dict[str, Any] = {
    "name": "conformance",
    "hosts": [{"name": "sled", "count": 2, "zones": ["a"]}],
    "devices": [
        {"name": "gpu", "type": "GPU", "count": 4, "model": "H200", "memory": "141Gi", "zones": ["a"]}
    ],
}
FAR = {"name": "far", "count": 1, "zones": ["b"]}
"""A host out of the devices' reach; where there are no resource blocks, nothing tells so beforehand."""


@pytest.fixture(scope="module", params=DIALECTS)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, EmulatorThread]]:
    dialect = request.param
    state = tmp_path_factory.mktemp("emulator") / "state.json"
    settings = Settings(state=state, user="weft", password="secret", dialect=dialect)
    hosts = [*INVENTORY["hosts"], *([FAR] if "compose" in dialect or "block" in dialect else [])]
    with EmulatorThread({**INVENTORY, "hosts": hosts}, settings) as running:
        yield dialect, running


class TestRedfishDriver(DriverConformance):
    """Weft's own driver."""

    @pytest.fixture
    def bench(self, service: tuple[str, EmulatorThread]) -> Bench:
        """A manager that asks for a login and can be restarted."""
        dialect, emulator = service
        connection = Connection(
            emulator.url, "weft", "secret", requests_per_second=5000.0, request_timeout_seconds=5.0
        )
        whole = dialect == "compose-by-post"
        return Bench(RedfishDriver, connection, restart=emulator.restart, whole_hosts=whole)

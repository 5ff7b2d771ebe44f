"""The suite finds what is wrong with a driver, and finds nothing wrong where nothing is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.emulator_thread import EmulatorThread
from weft.emulator.main import Settings

pytest_plugins = ["pytester"]

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "driver"
RACK = {
    "hosts": ["sled-0", "sled-1"],
    "devices": {
        f"gpu-{n}": {"kind": "Accelerator", "bytes": 2**36, "attributes": {"type": "GPU"}} for n in range(3)
    },
    "attached": {},
}
DRIVERS = """
import itertools
import pytest
from weft.fabric.conformance import Bench, DriverConformance
from weft.fabric.driver import Connection, Operation, OperationPhase
from weft.fabric.errors import Conflict, OutcomeUnknown, Transient
from weft.fabric.redfish import RedfishDriver
from weft_json_file_driver import JsonFileDriver

NUMBERS = itertools.count()


def bench(driver, tmp_path):
    file = tmp_path / "rack.json"
    file.write_text({rack!r})
    return Bench(driver, Connection(file.as_uri(), request_timeout_seconds=2.0), patience_seconds=2.0)


class Suite(DriverConformance):
    @pytest.fixture
    def bench(self, tmp_path):
        return bench(self.driver, tmp_path)


class TestExample(Suite):
    driver = JsonFileDriver


class Steals(JsonFileDriver):
    async def attach(self, operation, host, devices):
        for other in {{"sled-0", "sled-1"}} - {{host}}:
            await super().detach(operation, other, devices)
        return await super().attach(operation, host, devices)


class TestSteals(Suite):
    driver = Steals


class OneByOne(JsonFileDriver):
    async def attach(self, operation, host, devices):
        for device in sorted(devices, reverse=True):
            await super().attach(operation, host, frozenset({{device}}))
        return Operation("", OperationPhase.SUCCEEDED)


class TestOneByOne(Suite):
    driver = OneByOne


class Insists(JsonFileDriver):
    async def detach(self, operation, host, devices):
        if devices - await self.attached(host):
            raise Conflict("not attached")
        return await super().detach(operation, host, devices)


class TestInsists(Suite):
    driver = Insists


class Remembers(JsonFileDriver):
    def __init__(self, connection):
        super().__init__(connection)
        self.mine = {{}}

    async def attach(self, operation, host, devices):
        done = await super().attach(operation, host, devices)
        self.mine[host] = self.mine.get(host, frozenset()) | devices
        return done

    async def detach(self, operation, host, devices):
        done = await super().detach(operation, host, devices)
        self.mine[host] = self.mine.get(host, frozenset()) - devices
        return done

    async def attached(self, host):
        await super().attached(host)
        return self.mine.get(host, frozenset())


class TestRemembers(Suite):
    driver = Remembers


class Crashes(JsonFileDriver):
    async def attached(self, host):
        return {{"sled-0": await super().attached("sled-0"), "sled-1": await super().attached("sled-1")}}[host]


class TestCrashes(Suite):
    driver = Crashes


class Hopes(RedfishDriver):
    async def attach(self, operation, host, devices):
        try:
            return await super().attach(operation, host, devices)
        except OutcomeUnknown as error:
            raise Transient("certainly nothing has happened") from error


class TestHopes(DriverConformance):
    @pytest.fixture
    def bench(self):
        return Bench(Hopes, Connection({url!r}, requests_per_second=5000.0, request_timeout_seconds=2.0))
"""
FAILS = {
    "Example": set(),
    "Steals": {
        "test_a_device_that_another_host_has_is_a_conflict_and_stays_there",
        "test_it_is_one_too_for_a_driver_that_did_not_attach_it",
        "test_it_is_one_too_for_a_driver_that_read_before_another_attached_it",
        "test_of_several_devices_none_is_attached_when_one_is_elsewhere",
    },
    "OneByOne": {
        "test_of_several_devices_none_is_attached_when_one_is_elsewhere",
        "test_a_device_that_is_not_there_is_refused_with_all_that_were_to_come_with_it",
    },
    "Insists": {
        "test_detaching_what_is_not_there_is_success",
        "test_a_detach_from_one_host_leaves_the_device_of_another",
    },
    "Remembers": {
        "test_a_new_driver_sees_and_detaches_what_another_attached",
    },
    "Crashes": {"test_a_host_that_is_not_there_is_refused_by_every_call"},
    "Hopes": {"test_an_attach_cut_off_anywhere_says_the_truth_and_may_be_repeated"},
}


def test_each_broken_driver_fails_where_it_is_broken_and_the_example_nowhere(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    inventory = {
        "name": "rack",
        "hosts": [{"name": "sled", "count": 2}],
        "devices": [{"name": "gpu", "type": "GPU", "count": 3, "model": "H200", "memory": "141Gi"}],
    }
    with EmulatorThread(inventory, Settings()) as emulator:
        source = DRIVERS.format(rack=json.dumps(RACK), url=emulator.url)
        pytester.makepyfile(test_drivers=source)
        result = pytester.runpytest_inprocess("-q", "-p", "no:asyncio", "-p", "no:cacheprovider")
    sys.modules.pop("weft_json_file_driver", None)
    _, _, failed = result.reprec.listoutcomes()  # type: ignore[attr-defined]
    found: dict[str, set[str]] = {name: set() for name in FAILS}
    for report in failed:
        _, suite, test = report.nodeid.split("::")
        found[suite.removeprefix("Test")].add(test)
    assert found == FAILS

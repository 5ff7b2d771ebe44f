"""What a namespace is charged for, as time goes on and prices change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from weft.api.resources import DEVICE_ATTACHMENTS, GPU_POOLS, MEMORY_POOLS
from weft.runtime.metering import Holder, Meter

Object = dict[str, Any]
GPUS, MEMORY = Holder("team-a", "GPUPool", "a100"), Holder("team-a", "MemoryPool", "cxl")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> Meter:
    return Meter(clock)


def claim(kind: str, pool: str, capacity: str = "", quarantined: bool = False) -> Object:
    spec: Object = {"poolRef": {"kind": kind, "name": pool}, "claimRef": {"namespace": "team-a"}}
    if capacity:
        spec["capacity"] = capacity
    conditions = [{"type": "Quarantined", "status": "True"}] if quarantined else []
    return {"metadata": {"name": "x"}, "spec": spec, "status": {"conditions": conditions}}


def pool(name: str, watts: int = 0, **cost: str) -> Object:
    return {"metadata": {"name": name}, "spec": {"cost": cost, "power": {"busyWatts": watts}}}


def test_devices_and_bytes_add_up_over_the_time_that_they_are_held(meter: Meter, clock: Clock) -> None:
    gpu, memory = claim("GPUPool", "a100"), claim("MemoryPool", "cxl", "512Gi")
    meter.hear(DEVICE_ATTACHMENTS, None, gpu)
    meter.hear(DEVICE_ATTACHMENTS, None, gpu)
    meter.hear(DEVICE_ATTACHMENTS, None, memory)
    clock.now += 10
    meter.hear(DEVICE_ATTACHMENTS, gpu, None)
    clock.now += 5

    read = meter.read()
    assert (read[GPUS].devices, read[GPUS].device_seconds) == (1, 25.0)
    assert (read[MEMORY].bytes, read[MEMORY].byte_seconds) == (512 << 30, 15 * float(512 << 30))


def test_what_is_released_is_charged_no_longer_and_stays_charged(meter: Meter, clock: Clock) -> None:
    gpu = claim("GPUPool", "a100")
    meter.hear(DEVICE_ATTACHMENTS, None, gpu)
    clock.now += 10
    meter.hear(DEVICE_ATTACHMENTS, gpu, None)
    clock.now += 1000

    assert meter.read()[GPUS].device_seconds == 10.0


def test_a_new_price_counts_from_the_moment_that_it_is_written(meter: Meter, clock: Clock) -> None:
    meter.hear(GPU_POOLS, None, pool("a100", perDeviceHour="2"))
    meter.hear(DEVICE_ATTACHMENTS, None, claim("GPUPool", "a100"))
    clock.now += 3600
    meter.hear(GPU_POOLS, pool("a100", perDeviceHour="2"), pool("a100", perDeviceHour="3"))
    clock.now += 3600
    assert meter.read()[GPUS].cost == pytest.approx(5.0)

    meter.hear(GPU_POOLS, pool("a100", perDeviceHour="3"), None)
    clock.now += 3600
    assert meter.read()[GPUS].cost == pytest.approx(5.0)


def test_memory_costs_by_the_gibibyte(meter: Meter, clock: Clock) -> None:
    meter.hear(DEVICE_ATTACHMENTS, None, claim("MemoryPool", "cxl", "512Gi"))
    meter.hear(MEMORY_POOLS, None, pool("cxl", perGibibyteHour="0.01"))
    clock.now += 7200

    assert meter.read()[MEMORY].cost == pytest.approx(10.24)


def test_a_quarantined_device_is_nobodys(meter: Meter, clock: Clock) -> None:
    held = claim("GPUPool", "a100")
    meter.hear(DEVICE_ATTACHMENTS, None, held)
    clock.now += 10
    meter.hear(DEVICE_ATTACHMENTS, held, claim("GPUPool", "a100", quarantined=True))
    clock.now += 10

    assert (meter.read()[GPUS].devices, meter.read()[GPUS].device_seconds) == (0, 10.0)


def test_the_worked_bill_in_the_docs_is_what_the_counters_come_to(meter: Meter, clock: Clock) -> None:
    page = (Path(__file__).parents[3] / "docs" / "cost.md").read_text()
    rows = re.findall(
        r"^\| (\w+Pool) (\S+) \| (\d+) devices(?: of (\S+))?, (\d+) h \| (\S+) \| (\d+) \| (\S+) \| (\S+) kWh \|$",
        page,
        re.M,
    )
    resources = {"GPUPool": (GPU_POOLS, "perDeviceHour"), "MemoryPool": (MEMORY_POOLS, "perGibibyteHour")}
    assert len(rows) == 3
    sums = [0.0, 0.0]
    for kind, name, devices, size, hours, price, watts, cost, energy in rows:
        resource, field = resources[kind]
        held = [claim(kind, name, size) for _ in range(int(devices))]
        meter.hear(resource, None, pool(name, int(watts), **{field: price}))
        for each in held:
            meter.hear(DEVICE_ATTACHMENTS, None, each)
        clock.now += 3600 * int(hours)
        for each in held:
            meter.hear(DEVICE_ATTACHMENTS, each, None)
        account = meter.read()[Holder("team-a", kind, name)]
        assert (account.cost, account.joules / 3.6e6) == pytest.approx((float(cost), float(energy)))
        sums = [sums[0] + account.cost, sums[1] + account.joules / 3.6e6]
    (total,) = re.findall(r"^\| all \|.*\| (\S+) \| (\S+) kWh \|$", page, re.M)
    assert sums == pytest.approx([float(each) for each in total])

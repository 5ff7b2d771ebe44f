"""Devices that fail to attach: who is blamed, and what becomes of the others."""

from __future__ import annotations

import pytest

from support.rack import Rack, condition
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
)
from weft.fabric.errors import CapacityExhausted, DeviceFault


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


async def bound_although_gpu_0_is_broken(rack: Rack) -> None:
    """A logical node that got another device after gpu-0 failed once and was quarantined."""
    await rack.build()
    faults = [DeviceFault("broken", "gpu-0")]

    async def fail_once() -> None:
        if faults:
            raise faults.pop()

    rack.driver.before_attach = fail_once
    await rack.ask("n")
    for _ in range(3):
        await rack.poll()
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_place_that_had_no_capacity_is_tried_again_when_nothing_else_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch, hosts=2, settle=1)
    await rack.build()
    full = [CapacityExhausted("full")] * 2

    async def fail() -> None:
        if full:
            raise full.pop()

    rack.driver.before_attach = fail
    await rack.ask("n")
    for _ in range(8):
        await rack.poll()
        await rack.work("n")
    await rack.place_again()
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_quarantined_device_does_not_take_its_host_out_of_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch, hosts=1, settle=1)
    await bound_although_gpu_0_is_broken(rack)
    assert ("gpu-0", "sled-0") not in rack.driver.pairs


async def test_a_device_that_fails_for_settle_seconds_while_others_attach_is_quarantined_with_a_sentence(
    rack: Rack,
) -> None:
    await rack.build()
    attached = rack.driver.attached

    async def without_one(host: str) -> frozenset[str]:
        return await attached(host) - {"gpu-0"}

    rack.driver.attached = without_one  # type: ignore[method-assign]
    await rack.ask("n")
    rack.clock.forward(59)
    await rack.work("n")
    assert condition(rack.claims()[0], "Quarantined")[0] == ""
    rack.clock.forward(1)
    await rack.work("n")
    claim = rack.cluster.get(DEVICE_ATTACHMENTS, "rack.gpu-0") or {}
    (quarantined,) = (each for each in claim["status"]["conditions"] if each["type"] == "Quarantined")
    assert quarantined["message"].startswith(
        "gpu-0 could not be attached for settleSeconds, while the manager attached others; the last try: "
        "the manager takes the request and does not show it at sled-0"
    )


async def test_an_administrators_release_of_a_quarantined_device_is_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch, settle=1)
    await bound_although_gpu_0_is_broken(rack)
    await rack.cluster.delete(DEVICE_ATTACHMENTS, "rack.gpu-0")
    for _ in range(3):
        await rack.poll()
        await rack.work("n")
    assert rack.cluster.get(DEVICE_ATTACHMENTS, "rack.gpu-0") is None
    assert "QuarantineCleared" in {reason for _, reason, _ in rack.cluster.events}

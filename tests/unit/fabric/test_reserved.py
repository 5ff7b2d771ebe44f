"""Blocks that another client of a manager has reserved: by DSP2050 a second client is to consider them allocated."""

from __future__ import annotations

from typing import Any

import pytest

from support.foreign import Foreign, with_actions
from support.replay import BLOCKS, SYSTEMS, block, link, rack, reading, system
from weft.fabric.driver import OperationPhase, not_used
from weft.fabric.errors import Conflict

GPU, SLED = f"{BLOCKS}/gpu-0", f"{SYSTEMS}/sled-0"


def manager(*, reserved: bool = True, at: str = "", state: str = "Unused") -> Foreign:
    """A host and two GPUs, of which the first is as told."""
    status = {"Reserved": reserved, "CompositionState": state}
    links = {"ComputerSystems": [link(at)] if at else []}
    first = block(GPU, CompositionStatus=status, Links=links)
    return Foreign(rack(first, block(f"{BLOCKS}/gpu-1"), system(SLED, *([GPU] if at else []))))


async def test_a_reserved_block_is_told_and_is_no_free_device() -> None:
    async with reading(manager()) as (_, driver):
        read = await driver.inventory()
    assert {device.id: device.reserved for device in read.devices} == {"gpu-0": True, "gpu-1": False}
    assert not_used(read) == "1 device not used: 1 is reserved by another client of the manager"


@pytest.mark.parametrize(
    "told", [{"at": SLED}, {"at": SLED, "state": "Composed"}, {"state": "Composing"}, {"reserved": False}]
)
async def test_a_block_that_is_attached_or_being_attached_is_reserved_by_whoever_does_that(
    told: dict[str, Any],
) -> None:
    async with reading(manager(**told)) as (_, driver):
        read = await driver.inventory()
    assert not any(device.reserved for device in read.devices)
    assert not_used(read) == ""


@pytest.mark.parametrize("idiom", ["patch", "actions"])
async def test_a_block_that_was_reserved_since_the_last_reading_is_not_attached(idiom: str) -> None:
    served = manager(reserved=False)
    if idiom == "actions":
        with_actions(served.tree, SLED)
    async with reading(served) as (_, driver):
        await driver.inventory()
        served.tree[GPU]["CompositionStatus"]["Reserved"] = True
        with pytest.raises(Conflict, match="gpu-0 is reserved by another client"):
            await driver.attach("a", "sled-0", frozenset({"gpu-0", "gpu-1"}))
        assert served.changes == []
        done = await driver.attach("b", "sled-0", frozenset({"gpu-1"}))
        assert done.phase is OperationPhase.SUCCEEDED

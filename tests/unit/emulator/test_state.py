"""Attachments: who may have what."""

from __future__ import annotations

import pytest

from weft.emulator.inventory import World
from weft.emulator.state import Change, Reason, RefusedError, State


def give(state: State, host: str, *blocks: str) -> Change:
    change = state.plan(host, blocks)
    state.commit(change)
    return change


def test_a_new_list_is_attaches_and_detaches(small: World) -> None:
    state = State(small)
    give(state, "sled-0", "gpu-0", "gpu-1")
    change = give(state, "sled-0", "gpu-1", "cxl-0")
    assert change == Change("sled-0", attach=("cxl-0",), detach=("gpu-0",))
    assert state.blocks_of("sled-0") == ("gpu-1", "cxl-0")
    assert state.hosts_of("gpu-0") == ()


@pytest.mark.parametrize(
    ("host", "block", "reason"),
    [
        ("sled-1", "gpu-0", Reason.IN_USE),
        ("sled-1", "gpu-9", Reason.UNKNOWN_BLOCK),
        ("far", "gpu-1", Reason.OUT_OF_REACH),
    ],
)
def test_what_is_not_allowed_is_refused_as_a_whole(
    small: World, host: str, block: str, reason: Reason
) -> None:
    state = State(small)
    give(state, "sled-0", "gpu-0")
    with pytest.raises(RefusedError) as caught:
        state.plan(host, ["nvme-0", block])
    assert (caught.value.reason, block in caught.value.blocks) == (reason, True)
    assert state.hosts_of("nvme-0") == ()


def test_a_block_under_change_is_not_for_another_host(small: World) -> None:
    state = State(small)
    change = state.plan("sled-0", ["gpu-0"])
    state.begin(change.host, change.attach)
    with pytest.raises(RefusedError):
        state.plan("sled-1", ["gpu-0"])
    state.end(change.host, change.attach)
    assert state.plan("sled-1", ["gpu-0"]).attach == ("gpu-0",)


def test_permissive_mode_gives_a_block_to_two_hosts(small: World) -> None:
    state = State(small, permissive=True)
    give(state, "sled-0", "gpu-0")
    give(state, "far", "gpu-0")
    assert state.hosts_of("gpu-0") == ("sled-0", "far")
    give(state, "sled-0")
    assert state.hosts_of("gpu-0") == ("far",)


def test_what_was_dumped_is_restored(small: World) -> None:
    before = State(small)
    give(before, "sled-1", "gpu-2", "cxl-0")
    after = State(small)
    after.restore(before.dump())
    assert after.blocks_of("sled-1") == ("gpu-2", "cxl-0")
    assert after.version("sled-1") == before.version("sled-1")


def test_a_dump_of_another_inventory_is_refused(small: World) -> None:
    with pytest.raises(ValueError, match="gpu-77 on sled-0: not in the inventory"):
        State(small).restore({"attachments": {"sled-0": ["gpu-77"]}, "revision": 1, "versions": {}})

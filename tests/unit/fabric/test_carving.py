"""Which parts there are of a device, and which sizes they can have."""

from __future__ import annotations

import pytest

from weft.fabric.driver import DeviceKind
from weft.fabric.redfish.carving import Carved, Source, carved_from, number_in, part_name, part_uri

GIB = 1 << 30
DOMAIN = Source(DeviceKind.MEMORY, "/chunks", 8 * GIB, GIB, 2 * GIB)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (2 * GIB, ""),
        (8 * GIB, ""),
        (GIB, "multiples of 1Gi from 2Gi to 8Gi; nearest: 2Gi"),
        (5 * GIB // 2, "nearest: 2Gi and 3Gi"),
        (9 * GIB, "nearest: 8Gi"),
    ],
)
def test_a_size_that_cannot_be_carved_is_refused_with_those_nearest_that_can(size: int, said: str) -> None:
    text = DOMAIN.refusal(size)
    assert said in text
    assert bool(text) == bool(said)


def test_what_others_carved_leaves_room_for_fewer_parts_and_ours_keep_their_numbers() -> None:
    members = [
        ("/chunks/1", {"Name": part_name(3), "MemoryChunkSizeMiB": 2048}),
        ("/chunks/2", {"Name": "somebody's", "MemoryChunkSizeMiB": 2048}),
        ("/chunks/3", {"Name": part_name(1), "MemoryChunkSizeMiB": 1024}),  # ours once, of another size
        ("/chunks/4", {"Name": part_name(3), "MemoryChunkSizeMiB": 2048}),  # a second of the same name
    ]
    carved = carved_from(DOMAIN, 2 * GIB, members)
    assert carved.ours == {3: "/chunks/1"}
    assert carved.numbers == (3,)
    assert carved_from(DOMAIN, 2 * GIB, members[:1]).numbers == (1, 2, 3, 4)
    assert carved_from(DOMAIN, 2 * GIB, members[2:3]).numbers == (2, 3, 4)


def test_more_in_use_than_there_is_leaves_no_room() -> None:
    assert Carved(DOMAIN, 2 * GIB, used_bytes=9 * GIB).numbers == ()


def test_a_device_that_stands_for_a_part_is_told_from_an_endpoint() -> None:
    assert number_in(part_uri("/fabric/Endpoints/cxl-0", 12)) == ("/fabric/Endpoints/cxl-0", 12)
    assert number_in("/fabric/Endpoints/cxl-0") == ("/fabric/Endpoints/cxl-0", 0)
    assert number_in("/fabric/Endpoints/cxl-0#weft-part-0")[1] == 0

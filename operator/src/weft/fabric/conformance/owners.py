"""What another cluster has attached and marked is left alone, where the manager keeps marks."""

from __future__ import annotations

import pytest

from weft.fabric.conformance.rig import Rig, conformance, refusal, whole
from weft.fabric.errors import Conflict

OURS, THEIRS = "0a" * 6, "0b" * 6


class Owners:
    """Two clusters at one manager."""

    @conformance
    async def test_what_another_owner_attached_is_neither_taken_nor_detached(self, rig: Rig) -> None:
        device = rig.devices[0]
        async with rig.bench.connected(owner=OURS) as ours, rig.bench.connected(owner=THEIRS) as theirs:
            await rig.attach(device, driver=theirs)
            try:
                inventory = await whole(ours)
                assert (device, rig.host) in inventory.attachments
                if device not in inventory.other_owners:
                    pytest.skip("this manager has no place for an owner's mark, or the driver uses none")
                assert inventory.other_owners[device] == THEIRS
                for call in (ours.attach, ours.detach):
                    with refusal(Conflict):
                        await call(rig.key(), rig.host, frozenset({device}))
                assert await rig.where(device) == {(device, rig.host)}
                assert device not in (await whole(theirs)).other_owners
            finally:
                await rig.detach(device, driver=theirs)

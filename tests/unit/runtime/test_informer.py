from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from weft.api.resources import LOGICAL_NODES, NODES, ResourceType
from weft.cluster import Object
from weft.runtime.cache import ObjectCache
from weft.runtime.history import History
from weft.runtime.informer import Informer


class Lists:
    """The API server's lists: one version for all that there is."""

    def __init__(self) -> None:
        self.version = 100

    async def list(self, resource: ResourceType) -> tuple[list[Object], int]:
        return [], self.version


async def test_a_list_that_is_older_than_the_one_before_says_that_the_cluster_was_restored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    lists, history = Lists(), History()
    client: Any = lists
    informer = Informer(client, ObjectCache(), (LOGICAL_NODES, NODES), history)
    await informer.prime()
    lists.version = 120
    await informer.prime()
    assert not history.went_back.is_set()
    lists.version = 90
    correcting = asyncio.create_task(informer.correct(0.01))
    async with asyncio.timeout(5):
        await history.went_back.wait()
    correcting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await correcting
    (said,) = caplog.messages
    assert "version 90 of the list of logicalnodes after version 120" in said
    assert "restored" in said


async def test_a_list_that_takes_long_beside_another_is_not_taken_for_a_cluster_that_was_restored() -> None:
    class Slow(Lists):
        async def list(self, resource: ResourceType) -> tuple[list[Object], int]:
            version = self.version
            self.version += 10
            # The first answer is the last to come.
            await asyncio.sleep(0.03 if version == 100 else 0.0)
            return [], version

    client: Any = Slow()
    history = History()
    informer = Informer(client, ObjectCache(), (LOGICAL_NODES,), history)
    await asyncio.gather(informer.prime(), informer.prime())
    assert not history.went_back.is_set()

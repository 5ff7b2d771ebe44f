from __future__ import annotations

import asyncio
from typing import Any

import pytest

from weft.runtime import operator
from weft.runtime.settings import Settings


class _Nothing:
    """Stands for what an operator starts; everything it is asked takes no time and does nothing."""

    def __init__(self, *_: Any) -> None:
        self.ended = asyncio.Event()

    def remaining_seconds(self) -> float:
        return 0.0

    def leads(self) -> bool:
        return False

    def watching(self) -> bool:
        return not self.ended.is_set()

    def start_watching(self, _: Any) -> None:
        self.ended.set()

    async def acquire(self) -> None:
        await asyncio.Event().wait()

    async def prime(self) -> None:
        return

    async def correct(self, _: float) -> None:
        return

    release = stop = close = prime


async def test_a_replica_that_waits_ends_when_its_watches_end_so_that_it_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It could never be ready again, and would leave as soon as it had become the leader."""

    async def configuration() -> None:
        return None

    monkeypatch.setattr(operator, "load_configuration", configuration)
    for name in ("KubeClient", "Informer", "Leadership"):
        monkeypatch.setattr(operator, name, _Nothing)
    async with asyncio.timeout(10):
        assert await operator.run(Settings(health_host="127.0.0.1", health_port=0)) == 1

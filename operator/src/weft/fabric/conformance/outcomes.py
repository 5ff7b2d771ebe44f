"""Calls whose answer is lost: at each message of a change, before it reaches the manager and after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from weft.fabric.conformance.proxy import Lost, Proxy
from weft.fabric.conformance.rig import Rig, conformance, whole
from weft.fabric.driver import Driver, Operation
from weft.fabric.errors import Busy, DeviceFault, FabricError, OutcomeUnknown, PartialFailure

MOST_EXCHANGES = 60


class Outcomes:
    """What a driver says of a change is true: done, not done, or not known."""

    @conformance
    async def test_an_attach_cut_off_anywhere_says_the_truth_and_may_be_repeated(self, rig: Rig) -> None:
        wanted = frozenset(rig.devices[:2])

        async def attach(driver: Driver) -> Operation:
            return await driver.attach(rig.key(), rig.host, wanted)

        async def undo() -> None:
            await rig.detach(*wanted)

        await _sweep(rig, attach, undo, before=frozenset(), after=wanted)

    @conformance
    async def test_a_detach_cut_off_anywhere_says_the_truth_and_may_be_repeated(self, rig: Rig) -> None:
        wanted = frozenset(rig.devices[:2])
        await rig.attach(*wanted)

        async def detach(driver: Driver) -> Operation:
            return await driver.detach(rig.key(), rig.host, wanted)

        async def undo() -> None:
            await rig.attach(*wanted)

        await _sweep(rig, detach, undo, before=wanted, after=frozenset())


async def _sweep(
    rig: Rig,
    call: Callable[[Driver], Awaitable[Operation]],
    undo: Callable[[], Awaitable[None]],
    *,
    before: frozenset[str],
    after: frozenset[str],
) -> None:
    """Cut the connection at the first message of the call, then at the second, and so on until it goes through."""
    if rig.bench.address is None:
        pytest.skip("the endpoint is not plain HTTP: the suite cannot come between")
    mine = frozenset(rig.devices)
    for lost in Lost:
        for number in range(1, MOST_EXCHANGES):
            where = f"with exchange {number} cut off ({lost.value})"
            async with (
                Proxy(rig.bench.address) as proxy,
                rig.bench.connected(endpoint=rig.bench.elsewhere(proxy.port)) as driver,
            ):
                await whole(driver)
                proxy.cut(number, lost)
                problem: FabricError | None = None
                operation: Operation | None = None
                try:
                    operation = await call(driver)
                except FabricError as error:
                    problem = error
                was_cut = proxy.has_cut
                proxy.go_on()
                if operation is not None and operation.phase.is_terminal:
                    await rig.sees(
                        rig.driver, rig.host, lambda shown: shown & mine == after, f"{set(after)} {where}"
                    )
                unsure = OutcomeUnknown | PartialFailure | DeviceFault | Busy
                if problem is not None and not isinstance(problem, unsure):
                    shown = await rig.driver.attached(rig.host) & mine
                    assert shown == before, (
                        f"{where} it raised {type(problem).__name__}, which says that nothing was changed:"
                        f" {problem}; there is {sorted(shown)}, and was {sorted(before)}"
                    )
                # The same driver, over the same way: whatever was done, the rest is done now.
                await rig.change(driver, lambda: call(driver))
                await rig.sees(driver, rig.host, lambda shown: shown & mine == after, f"{set(after)} {where}")
            await undo()
            if not was_cut:
                break
        else:
            pytest.fail(f"a change of two devices takes more than {MOST_EXCHANGES} messages")

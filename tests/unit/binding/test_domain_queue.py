"""The place in the queue of a group that waits for its domain: what is kept for it, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.rack import condition
from support.rail import IB, Rail, rail
from weft.api.resources import (
    DEVICE_QUOTAS,
    INFERENCE_GROUPS,
    LOGICAL_NODES,
    NAMESPACES,
)
from weft.binding.keys import LogicalNodeKey, PlacementKey
from weft.binding.placement import PlacementController
from weft.domains import DomainQuestion


class SmallOnes:
    """Requests for one GPU each, beside the groups: one always waits, and one ends in each round."""

    def __init__(self, one: Rail, namespace: str) -> None:
        self.one, self.namespace, self.asked = one, namespace, 0
        self.holders: list[str] = []

    async def ask(self) -> None:
        name = f"small-{self.asked}"
        self.asked += 1
        self.one.rack.clock.forward(1)
        metadata = {"name": name, "namespace": self.namespace}
        spec = {"accelerators": [{"name": "main", "count": 1}]}
        await self.one.rack.cluster.create(LOGICAL_NODES, {"metadata": metadata, "spec": spec})
        self.holders.append(name)
        await self.work()

    async def end(self) -> None:
        name = self.holders.pop(0)
        await self.one.rack.cluster.delete(LOGICAL_NODES, name, self.namespace)
        await self.work()

    async def work(self) -> None:
        for _ in range(6):
            for raw in self.one.rack.cluster.list(LOGICAL_NODES, self.namespace):
                key = LogicalNodeKey(self.namespace, raw["metadata"]["name"])
                await self.one.rack.reconcile(key)
            await self.one.rack.settle()


@pytest.mark.parametrize("namespace", ["a", "b"])
async def test_a_group_gets_its_domain_though_smaller_requests_come_again_and_again(
    monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    one = await rail(monkeypatch, ib0=4)
    if namespace == "b":
        await one.rack.cluster.create(NAMESPACES, {"metadata": {"name": "b"}})
    small = SmallOnes(one, namespace)
    for _ in range(5):
        await small.ask()
    await one.ask("llama")
    await one.run("llama")
    assert condition(one.group("llama"), "Balanced") == ("False", "WaitingForDomain")
    rounds = 0
    while not one.domains("llama") and rounds < 9:
        rounds += 1
        await small.end()
        await small.ask()
        await one.run("llama")
        if rounds == 3:
            assert "kept for it" in one.message("llama")
    assert one.domains("llama") == ["ib0"] * 4
    assert rounds <= 6


@pytest.mark.parametrize("why", ["a quota", "suspended", "deleted"])
async def test_a_group_keeps_nothing_from_others_while_it_could_not_take_it(
    monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    one = await rail(monkeypatch, ib0=4)
    if why == "a quota":
        meta = {"name": "q", "namespace": "a", "uid": "q"}
        # As many hosts as the others have; the group needs two.
        await one.rack.cluster.create(DEVICE_QUOTAS, {"metadata": meta, "spec": {"hosts": 4}})
    small = SmallOnes(one, "a")
    for _ in range(4):
        await small.ask()
    await one.ask("llama", **({"suspend": True} if why == "suspended" else {}))
    await one.run("llama")
    if why == "deleted":
        await one.rack.cluster.delete(INFERENCE_GROUPS, "llama", "a")
        await one.run("llama")
    for _ in range(3):
        await small.end()
        await small.ask()
        if why != "deleted":
            await one.run("llama")
    assert len(one.rack.claims()) == 4
    assert not one.domains("llama")


async def test_a_group_that_serves_gets_its_last_replica_as_soon_as_there_are_devices_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await rail(monkeypatch, ib0=6)
    await one.ask("llama", prefill=1, decode=1, rebalance={"mode": "Paused"})
    await one.run("llama", serve=False)
    await one.rack.ask("other")
    await one.set_replicas("llama-decode", 2)
    await one.run("llama", serve=False)
    assert one.domains("llama") == ["ib0"] * 4
    await one.run("llama")
    await one.rack.cluster.delete(LOGICAL_NODES, "other", "a")
    await one.rack.work("other")
    before = one.rack.clock.boot
    while one.domains("llama") != ["ib0"] * 6 and one.rack.clock.boot < before + 30:
        await one.look("llama")
        await one.rack.pass_by(2)
    # Its place in the queue, for all of it at once, keeps them from itself no longer.
    assert one.rack.clock.boot <= before + 4


def wanting_three(one: Rail) -> tuple[PlacementController, DomainQuestion]:
    """Placement, and the question of a group of three logical nodes."""
    placement = one.rack.controllers[PlacementKey]
    assert isinstance(placement, PlacementController)
    nodes = {f"llama-{n}": {"accelerators": [{"name": "main", "count": 2}]} for n in range(3)}
    return placement, DomainQuestion("a", "llama", IB, "", nodes, one.rack.clock.now().wall)


@pytest.mark.parametrize(("left", "gets"), [(3, 0), (2, 2), (0, 4)])
async def test_what_was_kept_for_a_group_is_free_when_it_asks_for_less(
    monkeypatch: pytest.MonkeyPatch, left: int, gets: int
) -> None:
    one = await rail(monkeypatch, ib0=6)
    placement, asked, now = *wanting_three(one), one.rack.clock.now
    await one.rack.ask("other")
    assert (await placement.choose_domain(asked, now())).domain == ""
    await one.rack.place_again()
    await one.rack.cluster.delete(LOGICAL_NODES, "other", "a")
    await one.rack.work("other")
    assert (await placement.choose_domain(asked, now())).domain == "ib0"
    for n in range(2):
        await one.rack.ask(f"small-{n}")
    assert not one.rack.claims()
    rest = dict(list(asked.nodes.items())[:left])
    await placement.choose_domain(replace(asked, present="ib0", nodes=rest, settled=True), now())
    await one.rack.settle()
    assert len(one.rack.claims()) == gets


@pytest.mark.parametrize(("left", "domain"), [(3, ""), (1, "ib0")])
async def test_what_a_group_was_told_is_free_for_another_when_it_asks_for_less(
    monkeypatch: pytest.MonkeyPatch, left: int, domain: str
) -> None:
    one = await rail(monkeypatch, ib0=6)
    placement, asked, now = *wanting_three(one), one.rack.clock.now
    assert (await placement.choose_domain(asked, now())).domain == "ib0"
    rest = dict(list(asked.nodes.items())[:left])
    await placement.choose_domain(replace(asked, present="ib0", nodes=rest, settled=True), now())
    other = replace(asked, group="qwen", nodes={f"qwen-{n}": asked.nodes["llama-0"] for n in range(2)})
    assert (await placement.choose_domain(other, now())).domain == domain


async def test_a_new_leader_goes_on_keeping_what_a_group_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await rail(monkeypatch, ib0=4)
    small = SmallOnes(one, "a")
    for _ in range(4):
        await small.ask()
    await one.ask("llama")
    await one.run("llama")
    for _ in range(2):
        await small.end()
        await small.ask()
        await one.run("llama")
    assert len(one.rack.claims()) == 2
    one.take_over()
    await one.rack.poll()
    await small.work()
    await one.run("llama")
    await small.work()
    assert len(one.rack.claims()) == 2, "two who wait took nothing of what is free"
    assert "kept for it" in one.message("llama")


async def test_groups_that_wait_cost_no_pass_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await rail(monkeypatch, ib0=3)
    for name in ("llama", "qwen"):
        await one.ask(name)
    await one.run("llama", "qwen")
    placement = one.rack.controllers[PlacementKey]
    assert isinstance(placement, PlacementController)
    passes = placement.passes
    for _ in range(4):
        one.rack.clock.forward(20)
        await one.look("qwen", "llama")
        await one.rack.place_again()
    assert placement.passes == passes

"""Whatever a bound node asks for next: what it has stays within quota and domain, and only what it must changes."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.rack import Rack, condition
from weft.api.resources import DEVICE_QUOTAS, LOGICAL_NODES
from weft.fabric.driver import Device, DeviceKind

MOST = 5

worlds = st.fixed_dictionaries(
    {
        "domains": st.lists(st.sampled_from(["left", "right", ""]), min_size=4, max_size=8),
        "quota": st.integers(1, 6),
        "required": st.booleans(),
        "beside": st.integers(0, 2),
        "sizes": st.lists(st.integers(1, MOST), min_size=2, max_size=4),
    }
)


async def life(
    domains: list[str], quota: int, required: bool, beside: int, sizes: list[int]
) -> list[set[str]]:
    """The devices of a node that asks for these numbers one after the other; another node has `beside` of them."""
    with pytest.MonkeyPatch.context() as patch:
        rack = Rack(patch, gpus=0, hosts=2, settle=1)
        rack.driver.others = tuple(
            Device(f"gpu-{n}", DeviceKind.ACCELERATOR, {"link": domain} if domain else {}, 1, True)
            for n, domain in enumerate(domains)
        )
        await rack.build()
        limits = [{"kind": "GPUPool", "name": "gpus", "count": quota}]
        body = {"metadata": {"name": "q", "namespace": "a"}, "spec": {"limits": limits}}
        await rack.cluster.create(DEVICE_QUOTAS, body)
        if beside:
            await rack.ask("other", beside)
        tie = {"attribute": "link", "policy": "Required" if required else "Preferred"}
        await rack.ask("n", sizes[0], placement={"constraints": [tie]})
        lives: list[set[str]] = []
        for size in sizes:
            spec = {"accelerators": [{"name": "main", "count": size}]}
            await rack.cluster.patch(LOGICAL_NODES, "n", "a", {"spec": spec})
            for _ in range(4):
                await rack.work("n")
                await rack.place_again()
                await rack.poll()
            node, claims = rack.node("n"), rack.claims()
            listed = {each["device"] for each in node["status"].get("devices", ())}
            mine = {each["spec"]["device"] for each in claims if each["spec"]["claimRef"]["name"] == "n"}
            assert listed == mine
            assert {each["spec"]["device"] for each in claims} == {device for device, _ in rack.driver.pairs}
            assert len(claims) <= quota
            assert len({each["spec"]["host"] for each in claims if each["spec"]["device"] in mine}) <= 1
            if listed and len(listed) != size:
                assert len(listed) < size
                assert condition(node, "Resized")[0] == "False"
            lives.append(listed)
        return lives


@settings(max_examples=30, deadline=None)
@given(worlds)
def test_a_node_that_grows_and_shrinks_stays_within_quota_and_domain(world: dict) -> None:
    lives = asyncio.run(life(**world))
    for devices in lives:
        domains = {world["domains"][int(each.removeprefix("gpu-"))] for each in devices}
        assert not world["required"] or len(domains) <= 1
    for before, after in pairwise(lives):
        # What it has is not swapped: one of the two holds the other.
        assert before <= after or after <= before

"""The InferencePools of docs/examples/gateway select a group's pods by stage, and follow their moves."""

from __future__ import annotations

import pytest
import yaml

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY
from weft.api.resources import INFERENCE_ROLES, LOGICAL_NODES
from weft.cluster import Object
from weft_dev import ROOT

POOLS = {
    one["metadata"]["name"].removeprefix("llama-70b").lstrip("-"): one["spec"]["selector"]["matchLabels"]
    for one in yaml.safe_load_all((ROOT / "docs/examples/gateway/10-inference-pools.yaml").read_text())
}
"""Labels by the part of the pool's name that is its stage; of the pool of all pods by an empty one."""


def selected(fleet: Fleet, stage: str) -> set[str]:
    wanted: Object = {**POOLS[stage], "weft.dev/group": GROUP}
    return {
        pod["metadata"]["name"] for pod in fleet.pods() if wanted.items() <= pod["metadata"]["labels"].items()
    }


@pytest.mark.parametrize("drain_first", [False, True])
async def test_a_replica_that_moves_leaves_one_pool_and_enters_the_other_in_one_write(
    drain_first: bool,
) -> None:
    fleet = Fleet(drainFirst=drain_first)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    everyone = selected(fleet, "")
    before = selected(fleet, "prefill")
    assert (len(before), len(everyone)) == (3, 9)

    def look() -> None:
        prefill, decode = selected(fleet, "prefill"), selected(fleet, "decode")
        assert not prefill & decode
        assert prefill | decode == everyone == selected(fleet, "")

    fleet.cluster.after_write = look
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(90)
    assert selected(fleet, "prefill") > before
    assert len(selected(fleet, "prefill")) == fleet.serving()["prefill"]


async def test_one_domain_named_in_both_roles_is_asked_for_by_the_nodes_of_all_their_replicas() -> None:
    fleet = Fleet(nodes=True)
    selector = {"matchAttributes": {"rdmaDomain": "ib-0"}}
    for role in ("prefill", "decode"):
        node = {"accelerators": [{"name": "main", "count": 2, "selector": selector}]}
        fleet.edit(INFERENCE_ROLES, role, lambda spec, node=node: spec.update(node=node))
    await fleet.run(10)
    asked = [one["spec"]["accelerators"] for one in fleet.cluster.list(LOGICAL_NODES, NAMESPACE)]
    assert [one["selector"] for each in asked for one in each] == [selector] * 9

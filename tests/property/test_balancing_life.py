"""A group lives through random events; what must never happen is looked for after every single write."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.fleet import GROUP, MODEL, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY, steady
from support.refusals import BrokenWebhook, Rule, forbidden
from weft.api.names import LABEL_ROLE, LABEL_STAGE
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS

LOADS = {"prompts": PROMPT_HEAVY, "answers": ANSWER_HEAVY, "none": steady(0, 0, 0)}
RULES: dict[str, list[Rule]] = {
    "nothing": [],
    "pods": [BrokenWebhook(PODS)],
    "gates": [lambda write: forbidden(write, "no") if write.verb == "patch status" else None],
    "statuses": [lambda write: forbidden(write, "no") if write.verb == "status" else None],
    "deletions": [lambda write: forbidden(write, "no") if write.verb == "delete" else None],
}
events = st.one_of(
    st.tuples(st.just("load"), st.sampled_from(sorted(LOADS))),
    st.tuples(st.just("requests"), st.integers(0, 2)),
    st.tuples(st.just("vanish"), st.integers(0, 8)),
    st.tuples(st.just("mode"), st.sampled_from(["Auto", "Recommend", "Paused"])),
    st.tuples(st.just("prefill"), st.integers(1, 8)),
    st.tuples(st.just("decode"), st.integers(1, 8)),
    st.tuples(st.just("nan"), st.booleans()),
    st.tuples(st.just("down"), st.booleans()),
    st.tuples(st.just("rival"), st.integers(0, 8)),
    st.tuples(st.just("refuse"), st.sampled_from(sorted(RULES))),
    st.tuples(st.just("restart"), st.none()),
)


def happen(fleet: Fleet, what: str, value: Any) -> None:
    if what == "load":
        fleet.traffic = LOADS[value]
    elif what == "requests":
        fleet.requests = {f"{GROUP}-{n}": float(value) for n in range(0, 9, 2)}
    elif what == "vanish":
        fleet.cluster.objects.pop((PODS, NAMESPACE, f"{GROUP}-{value}"), None)
    elif what == "mode":
        fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(mode=value))
    elif what in ("prefill", "decode"):
        fleet.edit(INFERENCE_ROLES, what, lambda spec: spec.update(replicas=value))
    elif what == "nan":
        fleet.changed_values = {("front:requests_long", MODEL): float("nan")} if value else {}
    elif what == "down":
        fleet.broken = "the Prometheus server did not answer in time" if value else ""
    elif what == "refuse":
        fleet.cluster.rules = RULES[value]
    elif what == "restart":
        fleet.restart()
    elif what == "rival":  # somebody else's write between our read and our write
        key = (PODS, NAMESPACE, f"{GROUP}-{value}")
        if key in fleet.cluster.objects:
            fleet.cluster._store(key, fleet.cluster.objects[key])


class Witness:
    """Looks at the cluster after every write of the operator."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.serving = fleet.serving()
        self.roles: dict[str, str] = {}

    def look(self) -> None:
        fleet = self.fleet
        held = {one["metadata"]["name"] for one in fleet.pods()}
        held |= {one["metadata"]["name"] for one in fleet.cluster.list(LOGICAL_NODES, NAMESPACE)}
        assert 2 * len(held) <= 18, "the budget holds at every moment"
        for pod in fleet.pods():
            labels = pod["metadata"]["labels"]
            assert labels[LABEL_ROLE] == labels[LABEL_STAGE], "role and stage change together"
            name, role = pod["metadata"]["uid"], labels[LABEL_ROLE]
            if self.roles.get(name, role) != role:
                requests = fleet.requests.get(pod["metadata"]["name"], 0)
                assert requests == 0, "a replica changes its role only when it has nothing left to do"
            self.roles[name] = role
        status = fleet.status()
        transfers = {one["replica"] for one in status.get("transfers", ())}
        for pod in fleet.pods():
            gate = next(
                (
                    one
                    for one in (pod.get("status") or {}).get("conditions", ())
                    if one["type"] == "weft.dev/serving"
                ),
                None,
            )
            if gate is not None and gate.get("reason") == "Transfer" and gate["status"] == "False":
                assert pod["metadata"]["name"] in transfers, "a transfer is recorded before its first step"


@given(st.lists(st.tuples(events, st.integers(1, 12)), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_whatever_happens_the_budget_holds_and_no_stage_is_emptied(
    history: list[tuple[tuple[str, Any], int]],
) -> None:
    async def live() -> None:
        fleet = Fleet(nodes=True, cooldownSeconds=5)
        fleet.traffic = ANSWER_HEAVY
        await fleet.run(7)
        witness = Witness(fleet)
        before = fleet.serving()

        def look() -> None:
            nonlocal before
            witness.look()
            now = fleet.serving()
            for stage, count in now.items():
                # What vanished by itself is not the operator's doing; what it takes must leave one behind.
                assert count >= 1 or before[stage] == 0, f"the last {stage} replica was taken"
            before = now

        for (what, value), seconds in history:
            fleet.cluster.after_write = lambda: None
            happen(fleet, what, value)
            for _ in range(seconds):
                for _ in range(3):
                    before, state = fleet.serving(), fleet.state()
                    fleet.cluster.after_write = look
                    await fleet.look()
                    fleet.cluster.after_write = lambda: None
                    fleet.play()
                    if fleet.state() == state:
                        break
                fleet.now += timedelta(seconds=1)
        # In the end, left alone, it settles as recorded.
        fleet.broken, fleet.changed_values, fleet.requests, fleet.cluster.rules = "", {}, {}, []
        fleet.restart()  # what was refused is tried at once
        await fleet.run(45)
        allocation = {one["role"]: one["replicas"] for one in fleet.status()["allocation"]}
        assert fleet.split() == fleet.serving() == allocation
        assert fleet.condition("Ready")[0] == "True"

    asyncio.run(live())

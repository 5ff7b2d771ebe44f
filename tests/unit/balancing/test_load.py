"""What is told of a group's load, beside what is decided for it."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, OBJECTIVES, PROMPT_HEAVY, group, role, steady
from weft.api import Stage
from weft.api.resources import INFERENCE_GROUPS, PODS
from weft.balancing.keys import GroupKey
from weft.balancing.load import group_load
from weft.balancing.plan import plan_split


def test_what_is_told_of_need_and_traffic_is_what_the_decision_of_the_moment_says() -> None:
    inputs = group(3, 6, PROMPT_HEAVY)
    decision, load = plan_split(inputs).decision, group_load(inputs)

    assert decision is not None
    assert load is not None
    said = re.findall(r"(\w+) needs ([0-9.]+) replicas \(([0-9,]+)", decision.reason)
    tokens = (load.prompt_tokens_per_second, load.answer_tokens_per_second)
    assert said == [
        (stage.label, f"{needed:.1f}", f"{rate:,.0f}")
        for (stage, needed), rate in zip(load.needed.items(), tokens, strict=True)
    ]
    assert load.requests_per_second == 7.5


def test_the_part_within_each_objective_is_that_of_its_histogram() -> None:
    seen = replace(
        PROMPT_HEAVY,
        ttft_buckets=((2.5, 9.0), (math.inf, 10.0)),
        itl_buckets=((0.095, 3.0), (math.inf, 4.0)),
    )
    load = group_load(group(3, 6, seen))
    assert load is not None
    assert load.within == {"TimeToFirstToken": 0.9, "InterTokenLatency": 0.75}

    without = OBJECTIVES.model_copy(update={"inter_token_latency_microseconds": None})
    load = group_load(group(3, 6, seen, objectives=without))
    assert load is not None
    assert load.within == {"TimeToFirstToken": 0.9}


def test_of_what_is_not_known_no_figure_is_told() -> None:
    assert group_load(group(3, 6, None)) is None

    idle = group_load(group(3, 6, steady(0, 0, 0)))
    assert idle is not None
    assert (idle.requests_per_second, idle.prompt_tokens_per_second, idle.needed, idle.within) == (
        0,
        None,
        {},
        {},
    )

    assert idle.speeds == {}

    unmeasured = (role("decode", Stage.DECODE, 6), role("prefill", Stage.PREFILL, 3, profile=None))
    load = group_load(group(3, 6, PROMPT_HEAVY, roles=unmeasured))
    assert load is not None
    assert list(load.needed) == [Stage.DECODE]
    assert list(load.speeds) == [Stage.DECODE]


def test_a_decision_is_told_with_the_lateness_that_it_was_made_by() -> None:
    plan = plan_split(group(3, 6, PROMPT_HEAVY))
    assert plan.decision is not None
    assert plan.expected is not None
    said = re.search(r"expected violations ([0-9.]+) -> ([0-9.]+)", plan.decision.reason)
    assert said is not None
    assert said.groups() == (f"{plan.expected.before:.2f}", f"{plan.expected.after:.2f}")


async def test_nothing_is_told_of_a_group_whose_metrics_are_not_fresh_nor_of_one_that_is_gone() -> None:
    fleet, key = Fleet(), GroupKey(NAMESPACE, GROUP)
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    told = fleet.controller.loads[key]
    assert told.requests_per_second == pytest.approx(4.1)
    assert told.needed[Stage.DECODE] == pytest.approx(3.07, abs=0.05)

    fleet.broken = "the Prometheus server did not answer in time"
    await fleet.run(30)
    assert fleet.controller.loads == {}
    fleet.broken = ""
    await fleet.run(60)
    assert key in fleet.controller.loads

    await fleet.cluster.delete(INFERENCE_GROUPS, GROUP, NAMESPACE)
    await fleet.run(90)
    assert not any(kind == PODS for kind, _, _ in fleet.cluster.objects)
    await fleet.look()
    assert fleet.controller.loads == {}

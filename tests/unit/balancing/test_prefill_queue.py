"""What prefill's queue tells of the prompts of now, while answers that ended still tell of the load before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.inference import LLAMA_70B, group, steady
from weft.balancing.engines import queues
from weft.balancing.plan import plan_split
from weft.balancing.prefill_queue import told_by_queue
from weft.balancing.state import Engine, EngineLoad, Queues, SplitInputs

REQUESTS, SHORT, LONG = 6.0, 500.0, 1500.0
"""Per second; mean prompts before the load changed and since."""
SERVED = 2.0


def ended(seconds: float) -> float:
    """Long prompts that so many replicas end in so long."""
    return SERVED * seconds / LLAMA_70B.prefill_seconds(LONG)


def pressed(waiting: float, growth: float) -> SplitInputs:
    """Two prefill replicas, as the front end tells it still with the prompts of before."""
    inputs = group(2, 6, steady(REQUESTS, SHORT, 150))
    return replace(inputs, queues=Queues(waiting, 60.0, growth, SERVED))


def mean_prompt(inputs: SplitInputs) -> float:
    traffic = told_by_queue(inputs) or inputs.traffic
    assert traffic is not None
    return traffic.short.prompt_tokens / traffic.short.prompts


def test_prompts_that_got_longer_are_known_from_the_queue_before_any_of_their_answers_ends() -> None:
    growth = REQUESTS - ended(1.0)
    assert mean_prompt(pressed(60 * growth, growth)) == pytest.approx(LONG, rel=0.05)


def test_prompts_that_got_shorter_are_known_while_the_queue_of_the_longer_ones_lasts() -> None:
    growth = REQUESTS - SERVED / LLAMA_70B.prefill_seconds(250)
    assert growth < 0
    assert mean_prompt(pressed(100.0, growth)) == pytest.approx(250, rel=0.1)


@pytest.mark.parametrize(("waiting", "growth"), [(0.0, 0.0), (4.0, 0.2), (12.0, 0.7)])
def test_a_queue_that_chance_makes_tells_nothing(waiting: float, growth: float) -> None:
    assert mean_prompt(pressed(waiting, growth)) == SHORT


def test_without_the_growth_of_queues_lengths_are_those_that_ended() -> None:
    inputs = pressed(200.0, 3.0)
    assert told_by_queue(replace(inputs, queues=Queues(200.0, 60.0))) is None


def test_prefill_gets_what_prompts_that_nobody_has_reported_yet_need() -> None:
    # 2,400 prompts' seconds behind what the lengths say: prefill needs 3.6 of eight, not 1.3.
    growth = REQUESTS - ended(1.0)
    plan = plan_split(pressed(15 * growth, growth))
    assert plan.decision is not None
    assert plan.allocation["prefill"] >= 4


@pytest.mark.parametrize("held_up", [0, 1, 2])
def test_replicas_whose_kv_caches_decode_does_not_read_make_prompts_no_longer(held_up: int) -> None:
    growth, working = 1.0, SERVED - held_up
    arrivals = growth + max(1.0, working) / LLAMA_70B.prefill_seconds(SHORT)
    inputs = group(2, 6, steady(arrivals, SHORT, 150))
    engines = [
        Engine(
            "prefill", EngineLoad(running=float(number >= held_up), waiting=30.0, waiting_growth=growth / 2)
        )
        for number in range(2)
    ]
    assert inputs.traffic is not None
    told = queues(inputs.roles, engines, inputs.traffic.short_seconds)
    assert mean_prompt(replace(inputs, queues=told)) == pytest.approx(SHORT, rel=0.05)

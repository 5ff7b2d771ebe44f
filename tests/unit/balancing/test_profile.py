"""The measured profile of a role."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.fleet import NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY, LLAMA_70B, LLAMA_70B_SPEC, PROMPT_HEAVY
from weft.api.resources import ENGINE_PROFILES
from weft.balancing.profile import Curve, Profile, Unusable, profile_of


def stored(version: str = "1", **spec: Any) -> dict[str, Any]:
    """An EngineProfile as the cache has it."""
    metadata = {
        "name": "speed",
        "namespace": NAMESPACE,
        "uid": "uid-of-test-profile",
        "resourceVersion": version,
    }
    return {"metadata": metadata, "spec": {**copy.deepcopy(LLAMA_70B_SPEC), **spec}}


def test_times_lie_on_straight_lines_between_the_measured_points() -> None:
    assert LLAMA_70B.prefill_seconds(1024) == pytest.approx(0.377)
    assert LLAMA_70B.prefill_seconds(768) == pytest.approx(0.287)  # half way from 197 to 377 ms
    assert LLAMA_70B.inter_token_seconds(12) == pytest.approx(0.0636)  # half way from 61.7 to 65.5 ms


def test_a_prompt_longer_than_measured_continues_the_last_line_and_a_shorter_one_costs_as_the_first() -> None:
    curve = Curve.of([(512, 197_000), (1024, 377_000)])
    assert curve(1536) == pytest.approx(0.557)  # 377 + (377 - 197)
    assert curve(10) == pytest.approx(0.197)
    assert Curve.of([(512, 197_000)])(4096) == pytest.approx(0.197)


def test_the_largest_batch_is_where_the_curve_meets_the_limit() -> None:
    # Between batch 16 (65.5 ms) and 32 (72.2 ms): 70 ms is 4.5 / 6.7 of the way, 16 + 16 * 0.6716 = 26.7.
    assert LLAMA_70B.largest_batch(0.070) == pytest.approx(26.7, abs=0.1)
    assert LLAMA_70B.largest_batch(1.0) == 32
    assert LLAMA_70B.largest_batch(0.001) == 1


def test_a_profile_that_is_not_there_is_named() -> None:
    found = profile_of(None, "speed")
    assert isinstance(found, Unusable)
    assert "no EngineProfile 'speed'" in found.why


def test_a_profile_of_another_definition_than_this_versions_is_refused_with_its_field() -> None:
    found = profile_of(stored("broken", decode=[]), "speed")
    assert isinstance(found, Unusable)
    assert "spec.decode" in found.why


def test_a_profile_is_parsed_once_for_each_state_of_its_object() -> None:
    first, again = profile_of(stored("1"), "speed"), profile_of(stored("1"), "speed")
    changed = profile_of(stored("2", maxBatch=8), "speed")
    assert first is again
    assert isinstance(changed, Profile)
    assert changed.max_batch == 8


async def moved_with(**profile: Any) -> dict[str, int]:
    """The split of three and six after a load that the usual profile wants five and four for."""
    fleet = Fleet()
    fleet.edit(ENGINE_PROFILES, "speed", lambda spec: spec.update(profile))
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    fleet.traffic = PROMPT_HEAVY
    await fleet.run(90)
    return fleet.split()


@pytest.mark.shows("EngineProfile.spec.prefill[].promptTokens", "EngineProfile.spec.prefill[].microseconds")
async def test_where_prompts_are_measured_to_be_fast_prefill_gets_no_replica_more() -> None:
    fast = [{"promptTokens": 128, "microseconds": 20_000}, {"promptTokens": 8192, "microseconds": 1_000_000}]
    assert await moved_with() == {"prefill": 5, "decode": 4}
    assert await moved_with(prefill=fast) == {"prefill": 3, "decode": 6}


@pytest.mark.shows("EngineProfile.spec.decode[].batch", "EngineProfile.spec.decode[].microseconds")
async def test_where_large_batches_are_measured_to_be_slow_decode_keeps_its_replicas() -> None:
    slow = [{"batch": 1, "microseconds": 55_000}, {"batch": 16, "microseconds": 95_000}]
    assert (await moved_with(decode=slow))["decode"] > 4


@pytest.mark.shows("EngineProfile.spec.kvCapacityTokens")
async def test_where_few_contexts_fit_decode_keeps_its_replicas() -> None:
    assert (await moved_with(kvCapacityTokens=20_000))["decode"] > 4


@pytest.mark.shows("EngineProfile.spec.maxBatch")
async def test_where_an_engine_takes_few_requests_decode_keeps_its_replicas() -> None:
    assert (await moved_with(maxBatch=12))["decode"] > 4

"""What a group says about itself."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import PROMPT_HEAVY
from weft.api import InferenceGroup
from weft.api.resources import INFERENCE_GROUPS
from weft.balancing.conditions import metrics_fresh, objectives_met
from weft.balancing.presets import Windows
from weft.balancing.series import Buckets
from weft.balancing.signals import Reading
from weft.balancing.state import Hold


def group(met: str = "") -> InferenceGroup:
    """Objectives of 2,500 ms and 95 ms for 95 % of requests; `met`: what the condition says so far."""
    fleet = Fleet()
    raw = fleet.cluster.objects[(INFERENCE_GROUPS, NAMESPACE, GROUP)]
    known = {
        "type": "ObjectivesMet",
        "status": met,
        "reason": "Met",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    return InferenceGroup.model_validate({**raw, "status": {"conditions": [known]}} if met else raw)


def within(share: float, bound: float) -> Buckets:
    return ((bound, share * 100), (math.inf, 100.0))


def reading(ttft: Buckets, itl: Buckets) -> Reading:
    return Reading(replace(PROMPT_HEAVY, ttft_buckets=ttft, itl_buckets=itl), {}, None)


def test_objectives_are_met_when_both_shares_are_as_promised() -> None:
    found = objectives_met(group(), reading(within(0.99, 2.5), within(0.99, 0.095)))
    assert (found.status, found.reason) == (True, "Met")


@pytest.mark.shows("InferenceGroup.spec.objectives.timeToFirstTokenMilliseconds")
def test_the_objective_that_is_missed_is_named() -> None:
    found = objectives_met(group(), reading(within(0.90, 2.5), within(0.99, 0.095)))
    assert found.status is False
    assert "time to first token 2500 ms" in found.message
    assert "between tokens" not in found.message


def test_between_two_bucket_bounds_the_stricter_reading_counts_and_is_said() -> None:
    itl = ((0.075, 50.0), (0.1, 99.0), (math.inf, 100.0))
    found = objectives_met(group(), reading(within(0.99, 2.5), itl))
    assert found.status is False
    assert "lies between two histogram buckets" in found.message


@pytest.mark.parametrize(("before", "met"), [("True", True), ("False", False)])
def test_a_share_just_above_the_promise_leaves_the_condition_as_it_was(before: str, met: bool) -> None:
    found = objectives_met(group(before), reading(within(0.952, 2.5), within(0.99, 0.095)))
    assert found.status is met


def test_without_requests_or_fresh_metrics_it_is_unknown() -> None:
    assert objectives_met(group(), reading((), ())).status is None
    held = Reading(None, {}, Hold("Stale", "pod a was not scraped"))
    assert objectives_met(group(), held).status is None
    assert metrics_fresh(held, Windows(15.0)).reason == "Stale"


def test_no_message_holds_a_number_that_moves_by_itself() -> None:
    # The same verdict from other shares is the same text: else every look would be a write.
    first = objectives_met(group(), reading(within(0.90, 2.5), within(0.99, 0.095)))
    second = objectives_met(group(), reading(within(0.41, 2.5), within(0.97, 0.095)))
    assert first == second
    assert re.findall(r"\d+", first.message) == ["95", "2500"]


def test_scrapes_that_are_far_apart_are_said_with_what_they_cost() -> None:
    fresh = Reading(None, {}, None)
    assert "45 s" in metrics_fresh(fresh, Windows(15.0)).message
    assert "scrape" not in metrics_fresh(fresh, Windows(5.0)).message


async def test_kv_caches_that_nobody_read_in_time_make_a_condition_and_change_nothing_else() -> None:
    fleet = Fleet(1, 1)
    await fleet.run(10)
    assert fleet.condition("KVCachesRead") == ("", ""), "no engine counts it"
    names = sorted(pod["metadata"]["name"] for pod in fleet.pods())
    for name in names:
        fleet.changed_values["engine:kv_unread", name] = 0.0
    await fleet.run(10)
    assert fleet.condition("KVCachesRead") == ("True", "AllRead")
    fleet.changed_values["engine:kv_unread", names[0]] = 2.0
    await fleet.run(10)
    assert fleet.condition("KVCachesRead") == ("False", "KVExpired")
    assert names[0] in fleet.message("KVCachesRead")
    assert names[1] not in fleet.message("KVCachesRead")
    assert [reason for _, reason, _ in fleet.cluster.events].count("KVExpired") == 1
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    fleet.broken = "it is down"
    await fleet.run(30)
    assert fleet.condition("KVCachesRead") == ("False", "KVExpired"), "as it was told last"
    fleet.broken = ""
    for name in names:
        fleet.changed_values["engine:kv_unread", name] = None
    await fleet.run(30)
    assert fleet.condition("KVCachesRead") == ("", "")

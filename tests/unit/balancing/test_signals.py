"""What a group may believe of a snapshot."""

from __future__ import annotations

import math
from typing import Any

import pytest

from support.inference import T0
from weft.balancing.series import EngineSeries, FrontEndSeries, Snapshot
from weft.balancing.signals import Group, Reading, read
from weft.balancing.state import Past

NAMESPACE, POD = "team-a", "llama-0"
ENGINE = EngineSeries(running=1.0, waiting=0.0, age=0.0, targets=1.0)


def front(requests: float, **changes: Any) -> FrontEndSeries:
    """A front end's series of one model that gets as many requests, of 100 prompt tokens each, per second."""
    return FrontEndSeries(
        requests_short=requests,
        requests_long=requests,
        prompt_tokens_short=100 * requests,
        prompt_tokens_peak=200 * requests,
        ttft_buckets=((0.5, requests), (math.inf, 2 * requests)),
        **{"age": 0.0, "jobs": 1.0, **changes},
    )


def reading(models: tuple[str, ...], **fronts: FrontEndSeries) -> Reading:
    """What a group of one pod reads that serves `models`, where the front end counts these."""
    front_ends = {(NAMESPACE, model): series for model, series in fronts.items()}
    snapshot = Snapshot(T0, {(NAMESPACE, POD): ENGINE}, front_ends)
    return read(snapshot, Group(NAMESPACE, models, {POD}, {POD}), 15.0)


@pytest.mark.shows("InferenceGroup.spec.metrics.models")
def test_the_traffic_of_all_models_of_a_group_is_added_up_and_that_of_others_is_not() -> None:
    found = reading(("base", "adapter"), base=front(3), adapter=front(2), other=front(50))
    assert found.hold is None
    assert found.traffic is not None
    assert (found.traffic.short.requests, found.traffic.short.prompt_tokens) == (5, 500)
    assert found.traffic.peak_prompt_tokens_per_second == 1000
    assert found.traffic.ttft_buckets == ((0.5, 5), (math.inf, 10))


def test_the_last_minutes_are_known_only_where_prometheus_has_all_of_them() -> None:
    # Of 20 minutes in windows of 240 s.
    young = reading(("base",), base=front(3, past_windows=4, requests_past=9))
    assert young.traffic is not None
    assert young.traffic.past is None
    old = reading(("base",), base=front(3, past_windows=5, requests_past=9, prompt_tokens_past=900))
    assert old.traffic is not None
    assert old.traffic.past == Past(9, 900, 0)


def test_a_model_that_nobody_has_asked_for_yet_has_no_traffic() -> None:
    found = reading(("base", "adapter"), base=front(3))
    assert found.hold is None
    assert found.traffic is not None
    assert found.traffic.short.requests == 3


def test_where_no_model_has_series_the_group_holds() -> None:
    found = reading(("base", "adapter"), other=front(3))
    assert found.hold is not None
    assert (found.hold.reason, "model base" in found.hold.message) == ("SeriesMissing", True)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"age": 60.0}, "Stale"), ({"jobs": 2.0}, "ScrapedTwice"), ({"resets": 1.0}, "CounterReset")],
)
def test_one_model_whose_series_cannot_be_trusted_is_enough_to_hold(
    wrong: dict[str, float], reason: str
) -> None:
    found = reading(("base", "adapter"), base=front(3), adapter=front(2, **wrong))
    assert found.traffic is None
    assert found.hold is not None
    assert (found.hold.reason, "model adapter" in found.hold.message) == (reason, True)

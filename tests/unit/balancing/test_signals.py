"""What a group may believe of a snapshot."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from support.inference import T0
from weft.balancing.memory import Memory
from weft.balancing.series import EngineSeries, FrontEndSeries, Snapshot
from weft.balancing.signals import Group, Reading, Remember, read
from weft.balancing.state import Hold, Past

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
    # Of 20 minutes in windows of 180 s.
    young = reading(("base",), base=front(3, past_windows=5, requests_past=9))
    assert young.traffic is not None
    assert young.traffic.past is None
    old = reading(("base",), base=front(3, past_windows=6, requests_past=9, prompt_tokens_past=900))
    assert old.traffic is not None
    assert old.traffic.past == Past(9, 900, 0)


def test_a_model_that_nobody_has_asked_for_yet_has_no_traffic() -> None:
    found = reading(("base", "adapter"), base=front(3))
    assert found.hold is None
    assert found.traffic is not None
    assert found.traffic.short.requests == 3


@pytest.mark.parametrize("count", [-1.0, math.nan, math.inf])
def test_a_histogram_with_a_bucket_that_is_no_count_holds_the_group(count: float) -> None:
    found = reading(("base",), base=replace(front(3), ttft_buckets=((0.5, count), (math.inf, 6.0))))
    assert found.hold is not None
    assert found.hold.reason == "NotANumber"
    assert "ttft_buckets" in found.hold.message


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


SHORT_LONG = ("short", "long")


def engine(ended: float, **changes: Any) -> EngineSeries:
    """An engine that ends so many requests per second, of 100 prompt tokens, with answers of 10."""
    rates = {
        f"{name}_{window}": rate
        for window in SHORT_LONG
        for name, rate in (
            ("ended", ended),
            ("ended_prompt_tokens", 100 * ended),
            ("ended_answer_tokens", 10 * ended),
            ("waiting_growth", 0.0),
        )
    }
    return replace(ENGINE, **{**rates, **changes})


def of_engines(
    engines: dict[str, EngineSeries],
    *,
    steady: set[str] | None = None,
    steady_lately: set[str] | None = None,
    base: FrontEndSeries | None = None,
    warnings: tuple[str, ...] = (),
    remember: Remember = lambda _, wrong: wrong,
) -> Reading:
    """What a group reads whose pods' names begin with their stage."""
    front_ends = {(NAMESPACE, "base"): base} if base is not None else {}
    snapshot = Snapshot(T0, {(NAMESPACE, pod): one for pod, one in engines.items()}, front_ends, warnings)
    stages = {pod: pod.split("-")[0] for pod in engines}
    pods = set(engines)
    group = Group(
        *(NAMESPACE, ("base",), pods, pods, stages),
        steady=pods if steady is None else steady,
        steady_lately=pods if steady_lately is None else steady_lately,
    )
    return read(snapshot, group, 15.0, remember=remember)


def counted(requests: float) -> FrontEndSeries:
    """A front end that tells requests and lengths."""
    lengths = {f"{name}_{window}": requests for name in ("prompts", "answers") for window in SHORT_LONG}
    tokens = {
        f"{name}_tokens_{window}": 100 * requests for name in ("prompt", "answer") for window in SHORT_LONG
    }
    return replace(front(requests), **{**lengths, **tokens})


def test_prompts_are_as_long_as_those_that_prefill_reads_while_answers_to_others_end() -> None:
    engines = {
        "prefill-0": engine(3, ended_prompt_tokens_short=3 * 1700),
        "prefill-1": engine(1, ended_prompt_tokens_short=1 * 1300),
        "decode-0": engine(4, ended_prompt_tokens_short=9.0),
    }
    found = of_engines(engines, base=counted(4)).traffic
    assert found is not None
    assert found.short.prompt_tokens / found.short.prompts == 1600
    assert found.long.prompt_tokens / found.long.prompts == 100
    assert (found.short.requests, found.short.answer_tokens, found.prompts_read) == (4, 400, True)
    # What a replica that changed its role within the window counted is of both.
    found = of_engines(engines, base=counted(4), steady_lately={"prefill-0", "decode-0"}).traffic
    assert found is not None
    assert found.short.prompt_tokens / found.short.prompts == 1700
    # One that ends answers of its former role beside its prompts counts both.
    both = {**engines, "prefill-1": replace(engines["prefill-1"], generated_tokens_per_second=300.0)}
    found = of_engines(both, base=counted(4)).traffic
    assert found is not None
    assert found.short.prompt_tokens / found.short.prompts == 1700
    # A minute after all have come from decode the short window is theirs; the long one is told by the front end.
    found = of_engines(engines, base=counted(4), steady={"decode-0"}).traffic
    assert found is not None
    assert found.short.prompt_tokens / found.short.prompts == 1600
    assert (found.long.prompts, found.prompts_read) == (4, True)


@pytest.mark.parametrize(
    "others",
    [
        {"prefill-0": ENGINE},
        {"prefill-0": engine(2, ended_prompt_tokens_short=2 * 1700)},
        {"prefill-0": engine(4, ended_prompt_tokens_short=4 * 1700), "aggregated-0": engine(1)},
    ],
    ids=["engines do not tell", "decode reads the short ones", "aggregated replicas read some"],
)
def test_prompts_are_as_long_as_the_front_end_records_where_prefill_does_not_read_all(
    others: dict[str, EngineSeries],
) -> None:
    found = of_engines({**others, "decode-0": engine(4)}, base=counted(4)).traffic
    assert found is not None
    assert (found.short.prompt_tokens / found.short.prompts, found.prompts_read) == (100, False)


def test_without_a_front_end_the_work_is_what_prefill_ended_and_the_growth_of_its_queue() -> None:
    found = of_engines({"prefill-0": engine(3, waiting_growth_short=0.5), "decode-0": engine(2)})
    assert found.traffic is not None
    short = found.traffic.short
    assert (short.requests, short.prompt_tokens, short.answers, short.answer_tokens) == (3.5, 300, 2, 20)
    assert found.demand is not None
    assert found.demand.reason == "FrontEndNotTrusted"


@pytest.mark.parametrize("wrong", [{"resets": 1.0}, {"age": 60.0}])
def test_a_front_end_that_starts_anew_holds_no_group_whose_engines_tell_what_they_got(
    wrong: dict[str, float],
) -> None:
    engines = {"prefill-0": engine(3), "decode-0": engine(2)}
    found = of_engines(engines, base=replace(counted(3), **wrong))
    assert found.hold is None
    assert found.demand is not None
    assert found.demand.reason == "FrontEndNotTrusted"


def test_how_much_arrives_is_not_concluded_from_engines_while_a_replica_has_counts_of_two_roles() -> None:
    engines = {"prefill-0": engine(3), "prefill-1": engine(9), "decode-0": engine(2)}
    found = of_engines(engines, steady={"prefill-0", "decode-0"})
    assert found.hold is not None
    assert (found.hold.reason, "llm_d_epp_request_total" in found.hold.message) == ("SeriesMissing", True)
    # And a flip alone does not make the front end look as if it missed requests.
    found = of_engines(engines, steady={"prefill-0", "decode-0"}, base=counted(4))
    assert found.demand is None


def test_an_engine_that_does_not_tell_what_it_ended_makes_the_sum_unknown_and_not_smaller() -> None:
    found = of_engines({"prefill-0": engine(3), "prefill-1": ENGINE, "decode-0": engine(2)})
    assert found.traffic is None


def test_a_replica_that_cannot_be_trusted_is_taken_as_its_stage_s_others() -> None:
    found = of_engines({"prefill-0": engine(3), "prefill-1": engine(3, resets=1.0), "decode-0": engine(2)})
    assert found.traffic is not None
    assert found.traffic.short.requests == 6
    assert list(found.left_out) == ["prefill-1"]


def test_a_backlog_that_is_worked_off_is_no_contradiction() -> None:
    engines = {"prefill-0": engine(9, waiting_growth_long=-5.0), "decode-0": engine(4)}
    assert of_engines(engines, base=counted(4)).demand is None


def test_a_warning_of_the_server_holds_the_group_in_its_words() -> None:
    found = of_engines(
        {"prefill-0": engine(3), "decode-0": engine(3)}, base=counted(3), warnings=("store 3 down",)
    )
    assert found.hold is not None
    assert (found.hold.reason, "store 3 down" in found.hold.message) == ("PartialAnswer", True)


def test_what_was_wrong_is_right_again_only_after_two_scrapes() -> None:
    memory, wrong = Memory(), Hold("Stale", "pod a")
    assert memory.of("a", wrong, 100.0, 15.0) == wrong
    assert memory.of("a", None, 129.0, 15.0) == wrong
    assert memory.of("b", None, 129.0, 15.0) is None
    assert memory.of("a", None, 130.0, 15.0) is None


@pytest.mark.parametrize("clock_ahead_hours", [-5, 5])
def test_a_wrong_clock_of_the_operator_makes_no_series_stale(clock_ahead_hours: int) -> None:
    pods = {"prefill-0": engine(3), "decode-0": engine(3)}
    snapshot = Snapshot(
        T0 + timedelta(hours=clock_ahead_hours),
        {(NAMESPACE, pod): one for pod, one in pods.items()},
        {(NAMESPACE, "base"): counted(3)},
    )
    group = Group(
        NAMESPACE, ("base",), set(pods), set(pods), {pod: pod.split("-")[0] for pod in pods}, set(pods)
    )
    assert read(snapshot, group, 15.0).hold is None

"""The demo's exit status: each way to fail, and the machine that is too slow to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from weft_playground.case import Split
from weft_playground.demo.facts import Census
from weft_playground.demo.rehearsal import Objectives
from weft_playground.demo.report import (
    Computed,
    Evidence,
    GroupReport,
    LogicalNodeReport,
    logical_nodes_text,
    share_within,
    splits_over_time,
    table,
    verdict,
)
from weft_playground.lag import Lag, LagMeter
from weft_playground.load import Result


def result(group: str, *, ttft: float = 1.0, ok: bool = True, scheduled: float = 0.0) -> Result:
    error = "" if ok else "asked for 10 tokens, got 4"
    return Result(group, 0, scheduled, 100, 10, ttft, 0.06, 0.08, 10, 0.0, ok, error)


def group(name: str, mode: str) -> GroupReport:
    return GroupReport(
        name=name,
        mode=mode,
        results=[result(name), result(name, ttft=9.0, scheduled=60.0)],
        history=[
            (-20.0, Census(0, 0, 9)),
            (-5.0, Census(3, 6, 0)),
            (62.0, Census(3, 5, 1)),
            (70.0, Census(4, 5, 0)),
        ],
        budget_accelerators=18,
        most_accelerators=18,
        accelerator_seconds=1800.0,
        idle_accelerator_seconds=16.0,
        transfers=[70.0] if mode == "Auto" else [],
        settled_at=70.0 if mode == "Auto" else None,
    )


def computed(split: Split, *, second_ttft: float) -> Computed:
    return Computed(split, [result("computed"), result("computed", ttft=second_ttft, scheduled=60.0)])


def evidence() -> Evidence:
    """4:5 would have met both stretches; 3:6, with which both groups began, only the first."""
    return Evidence(
        objectives=Objectives(3.0, 0.1),
        shift_at=50.0,
        auto=group("demo-auto", "Auto"),
        paused=group("demo-paused", "Paused"),
        requests_sent=2,
        logical_node_bound=True,
        split=Split(3, 6),
        computed=[computed(Split(3, 6), second_ttft=9.0), computed(Split(4, 5), second_ttft=1.0)],
        lags=[Lag("load", 100, 0.001, 0.01, 0.02), Lag("engines", 100, 0.001, 0.012, 0.2, 0.002)],
    )


def auto(**changes: object) -> Callable[[Evidence], Evidence]:
    return lambda all_well: replace(all_well, auto=replace(all_well.auto, **changes))  # type: ignore[arg-type]  # any field


def test_all_well_is_success() -> None:
    assert verdict(evidence()).status == 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda each: replace(each, logical_node_bound=False), "no logical node"),
        (auto(transfers=[]), "in the second stretch 4:5 would have met 100.0 %, 3:6 0.0 % (computed)"),
        (auto(results=[result("demo-auto", ttft=9.0)] * 2), "balancing made it worse: 0.0 %"),
        (auto(most_accelerators=20), "budget"),
        (auto(results=[result("demo-auto"), result("demo-auto", ok=False)]), "failed"),
        (auto(results=[result("demo-auto")]), "2 requests sent, 1 answered"),
        (lambda each: replace(each, left_attached=[("gpu-3", "sled-1")]), "gpu-3 on sled-1"),
        (lambda each: replace(each, attached_twice=["gpu-3"]), "attached twice"),
    ],
)
def test_each_of_these_is_a_failure_and_says_what_it_was(
    spoil: Callable[[Evidence], Evidence], words: str
) -> None:
    found = verdict(spoil(evidence()))
    assert found.status == 1
    assert words in " ".join(found.reasons)


def test_no_move_is_well_where_the_first_split_keeps_what_was_promised() -> None:
    met = [result("demo-auto"), result("demo-auto", scheduled=60.0)]
    found = verdict(auto(transfers=[], results=met)(evidence()))
    assert found.status == 0
    assert "no move was needed: the first split, 3:6, met 100.0 % and 100.0 %" in found.reasons[0]


def test_no_move_is_well_where_no_other_split_would_have_done_better() -> None:
    nobody = [computed(Split(3, 6), second_ttft=9.0), computed(Split(4, 5), second_ttft=8.0)]
    found = verdict(replace(auto(transfers=[])(evidence()), computed=nobody))
    assert found.status == 0
    assert "no move was needed: in neither stretch would another split of 9 replicas" in found.reasons[0]


def test_a_promise_broken_in_one_stretch_is_not_made_good_by_the_other() -> None:
    results = [result("demo-auto", scheduled=float(at % 50)) for at in range(199)]
    results.append(result("demo-auto", ttft=9.0, scheduled=60.0))
    spoiled = auto(transfers=[], results=results)(replace(evidence(), requests_sent=200))
    paused = replace(spoiled.paused, results=[replace(each, group="demo-paused") for each in results])
    assert verdict(replace(spoiled, paused=paused)).status == 1


@pytest.mark.parametrize(
    "lag", [Lag("load", 100, 0.1, 0.31, 0.5), Lag("engines", 100, 0.001, 0.02, 0.03, 0.011)]
)
def test_lagging_by_more_than_a_tenth_of_an_objective_gives_no_verdict(lag: Lag) -> None:
    found = verdict(replace(evidence(), lags=[lag]))
    assert found.status == 3
    assert "machine too slow" in found.reasons[0]


def test_a_slow_machine_excuses_a_missing_transfer_but_nothing_left_attached() -> None:
    slow = replace(auto(transfers=[])(evidence()), lags=[Lag("engines", 100, 0.001, 0.05, 0.1, 0.02)])
    assert verdict(slow).status == 3
    assert verdict(replace(slow, left_attached=[("gpu-0", "sled-0")])).status == 1


def test_a_failed_request_is_not_within_objectives() -> None:
    results = [result("g"), result("g", ok=False), result("g", ttft=3.5)]
    assert share_within(results, Objectives(3.0, 0.1)) == pytest.approx(1 / 3)


def test_the_table_shows_both_groups_before_and_after_the_shift() -> None:
    text = table(evidence())
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert lines["within objectives, first stretch"].split()[-6:] == ["100.0", "%"] * 3
    assert lines["within objectives, second stretch"].split()[-6:] == ["0.0", "%", "0.0", "%", "100.0", "%"]
    assert "20 s" in lines["from the shift to the first transfer's end"]


def test_the_best_fixed_split_in_hindsight_is_marked_as_computed_and_has_no_hardware_of_its_own() -> None:
    head, *rows = table(evidence()).splitlines()
    assert head.endswith("fixed 4:5, in hindsight (computed)")
    seconds = next(row for row in rows if row.startswith("GPU-seconds"))
    assert seconds.split() == ["GPU-seconds", "1,800", "1,800"]


def test_the_split_over_time_begins_with_the_one_the_load_met() -> None:
    assert splits_over_time(group("g", "Auto")) == "0:00 3:6, 1:02 3:5 +1, 1:10 4:5"


def test_logical_nodes_are_listed_with_their_devices() -> None:
    text = logical_nodes_text(
        [LogicalNodeReport("demo", "trainer", "worker-3", "sled-3", ["gpu-48", "cxl-0"])]
    )
    assert text == "demo/trainer  worker-3 (sled-3): gpu-48, cxl-0"


def test_lateness_is_summed_up_in_percentiles() -> None:
    meter = LagMeter()
    for _ in range(99):
        meter.observe(0.002)
    meter.observe(0.5)
    lag = meter.lag("engines")
    assert lag.count == 100
    assert lag.p99_seconds <= 0.003
    assert lag.max_seconds == 0.5


def test_the_worst_five_seconds_are_not_diluted_by_a_quiet_run() -> None:
    now = 0.0
    meter = LagMeter(clock=lambda: now)
    for step in range(6000):
        now = step * 0.01
        meter.observe(0.02 if 28 <= now < 38 else 0.0)
    assert meter.lag("engines").worst_mean_seconds == pytest.approx(0.02)
    assert meter.lag("engines").p50_seconds <= 0.001

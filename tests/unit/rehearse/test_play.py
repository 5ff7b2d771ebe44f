"""A group under a policy, in virtual time."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from weft.balancing.profile import Curve, Profile
from weft.rehearse.engine import Speeds
from weft.rehearse.moves import Ways
from weft.rehearse.play import Case, Counts, Policy, Run, Target, View, play
from weft.rehearse.static import Static, best_static, splits
from weft.rehearse.summary import course, figures, table
from weft.rehearse.trace import Trace
from weft.rehearse.weft_policy import Weft
from weft.rehearse.world import Objectives

PROFILE = Profile(Curve((100, 10_000), (0.02, 2.0)), Curve((1, 32), (0.02, 0.04)), 60_000, 32)


def poisson(seed: int, seconds: float, rate: float, prompt: int, answer: int, start: float = 0.0) -> list:
    chance = random.Random(seed)
    rows, at = [], start
    while (at := at + chance.expovariate(rate)) < start + seconds:
        rows.append((at, 1 + int(chance.expovariate(1 / prompt)), 1 + int(chance.expovariate(1 / answer))))
    return rows


SHIFT = Trace.of(
    [*poisson(1, 150, 6.0, 600, 300), *poisson(2, 350, 6.0, 2600, 60, start=150)],
)
"""Long answers, then long prompts."""
CASE = Case(SHIFT, Speeds(PROFILE), PROFILE, Objectives(1.5, 0.05, 0.95), most_replicas=6, scrape_seconds=2.0)


@dataclass
class Script:
    """Wants these counts from these times on."""

    steps: list[tuple[float, Counts]]
    way: Ways
    name: str = "script"
    interval_seconds: float = 0.0

    def ways(self, case: Case) -> Ways:
        return self.way

    def look(self, view: View) -> Target | None:
        wanted = [counts for at, counts in self.steps if at <= view.now]
        return Target(wanted[-1], "as told") if wanted else None


def outcome(run: Run) -> tuple:
    return list(run.world.ttft), list(run.world.itl), run.decisions, run.sizes, run.held_seconds


def test_the_same_case_gives_the_same_course_to_the_last_digit() -> None:
    assert outcome(play(CASE, Weft(CASE))) == outcome(play(CASE, Weft(CASE)))


def test_weft_follows_a_shift_that_no_first_split_suits() -> None:
    weft = play(CASE, Weft(CASE), {"prefill": 2, "decode": 4})
    kept = play(CASE, Static(CASE), {"prefill": 2, "decode": 4})
    assert weft.attainment > kept.attainment + 0.2
    assert weft.decisions
    assert "prefill" in weft.decisions[-1].reason


def test_stationary_traffic_changes_the_size_at_most_six_times_an_hour_and_never_back_within_the_cooldown() -> (
    None
):
    trace = Trace.of(poisson(3, 3600, 4.0, 1400, 120))
    case = replace(CASE, trace=trace, most_replicas=10, scrape_seconds=5.0)
    run = play(case, Weft(case))
    sizes = [(0.0, 10), *((one.at_seconds, sum(one.counts.values())) for one in run.decisions)]
    changes = [(at, size - before) for (_, before), (at, size) in pairwise(sizes) if size != before]
    assert 1 <= len(changes) <= 6
    for (before, one), (after, other) in pairwise(changes):
        assert one * other > 0 or after - before >= 30
    assert run.attainment >= CASE.objectives.attainment


@pytest.mark.parametrize("overlap", [False, True])
def test_flips_lose_no_request_and_hold_no_more_than_the_hardware(overlap: bool) -> None:
    steps = [(60.0 * i, {"prefill": 1 + i % 4, "decode": 5 - i % 4}) for i in range(8)]
    run = play(CASE, Script(steps, Ways(6, overlap=overlap)))
    assert run.flips > 7
    assert run.world.done == len(SHIFT)
    assert max(held for _, _, held in run.sizes) == 6
    assert all(serving.get("prefill") and serving.get("decode") for _, serving, _ in run.sizes)
    assert run.held_seconds == pytest.approx(6 * SHIFT.seconds)


def test_a_flip_that_drains_waits_for_its_answers_and_one_that_overlaps_does_not() -> None:
    steps = [(100.0, {"prefill": 4, "decode": 2})]
    times = {}
    for overlap in (False, True):
        run = play(CASE, Script(steps, Ways(6, overlap=overlap)))
        times[overlap] = next(at for at, serving, _ in run.sizes if serving == {"prefill": 4, "decode": 2})
    assert times[True] <= 104.5
    assert times[False] > 108


def test_a_replica_that_still_drains_is_called_back_when_the_target_is_the_old_one_again() -> None:
    steps = [(100.0, {"prefill": 4, "decode": 2}), (104.0, {"prefill": 3, "decode": 3})]
    run = play(CASE, Script(steps, Ways(6)))
    assert run.flips == 0
    assert [serving for at, serving, _ in run.sizes if at >= 100] == [
        {"prefill": 3, "decode": 2},
        {"prefill": 3, "decode": 3},
    ]
    assert next(at for at, serving, _ in run.sizes if at > 100 and serving["decode"] == 3) <= 104.5


def test_replicas_that_start_or_drain_are_paid_for_and_serve_nobody() -> None:
    steps = [(100.0, {"prefill": 4, "decode": 4}), (300.0, {"prefill": 3, "decode": 3})]
    run = play(
        CASE, Script(steps, Ways(8, flips=False, cold_start_seconds=60.0)), {"prefill": 3, "decode": 3}
    )
    assert (100.0, {"prefill": 3, "decode": 3}, 8) in run.sizes
    began = next(at for at, serving, _ in run.sizes if serving == {"prefill": 4, "decode": 4})
    assert 160.0 <= began < 163.0
    assert run.world.done == len(SHIFT)
    gone = max(at for at, _, held in run.sizes if held == 6)
    assert gone >= 330.0, "a prefill replica's caches may be read for half a minute"
    assert run.held_seconds > 6 * SHIFT.seconds + 2 * 200.0


@pytest.mark.parametrize(("prompts_per_second", "gone_after"), [(2.0, 15.0), (30.0, 30.0)])
def test_a_decode_replica_is_ended_as_late_as_by_the_operator_while_prompts_wait(
    prompts_per_second: float, gone_after: float
) -> None:
    """Of 600 tokens one prefill replica reads about eight prompts a second. Scrapes are at multiples of 5 s, and the
    first one that tells is 11 s after the replica left the router, or later."""
    case = replace(CASE, trace=Trace.of(poisson(1, 150, prompts_per_second, 600, 1)), scrape_seconds=5.0)
    steps = [(50.0, {"prefill": 1, "decode": 2}), (100.0, {"prefill": 1, "decode": 1})]
    run = play(case, Script(steps, Ways(3)), {"prefill": 1, "decode": 2})
    gone = next(at for at, _, held in run.sizes if held == 2)
    assert gone == pytest.approx(100.0 + gone_after, abs=0.5)


def test_new_replicas_wait_for_hardware_that_drains() -> None:
    """Without flips a role gives a replica away and the other one makes it: never both at once at the limit."""
    run = play(
        CASE, Script([(100.0, {"prefill": 4, "decode": 2})], Ways(6, flips=False, cold_start_seconds=30.0))
    )
    assert max(held for _, _, held in run.sizes) == 6
    assert run.sizes[-1][1] == {"prefill": 4, "decode": 2}
    assert run.removed == run.made == 1


def test_the_best_fixed_split_is_no_worse_than_any_other() -> None:
    best = best_static(CASE, aggregated=False, progress=lambda _: None)
    for counts in splits(6, 6, aggregated=False):
        assert play(CASE, Static(CASE), counts).world.met <= best.world.met


def test_where_the_size_is_free_the_smallest_fleet_that_keeps_the_promise_is_the_best_fixed_one() -> None:
    light = replace(CASE, trace=Trace.of(poisson(3, 200, 2.0, 500, 50)), least_replicas=2)
    best = best_static(light, aggregated=False, progress=lambda _: None)
    assert best.attainment >= 0.95
    size = sum(best.first.values())
    assert size < 6
    for counts in splits(2, size - 1, aggregated=False):
        assert play(light, Static(light), counts).attainment < 0.95


def test_aggregated_replicas_answer_alone_and_slow_their_tokens_by_prompts() -> None:
    run = play(CASE, Static(CASE), {"aggregated": 6})
    apart = play(CASE, Static(CASE), {"prefill": 3, "decode": 3})
    assert run.world.done == len(SHIFT)
    median = figures(run)["itlSeconds"]["p99"]
    assert median > figures(apart)["itlSeconds"]["p99"]


def test_requests_that_nobody_answers_in_time_are_missed() -> None:
    case = replace(CASE, trace=Trace.of([(0.0, 2_000_000, 10), (1.0, 100, 10)]))
    run = play(case, Static(case), {"prefill": 1, "decode": 1})
    assert run.attainment < 1
    assert figures(run)["requests"] == 2


def test_the_course_has_every_request_once_and_the_table_every_policy() -> None:
    run = play(CASE, Weft(CASE))
    bins = course(run)["bins"]
    total = sum(each["requestsPerSecond"] * course(run)["binSeconds"] for each in bins)
    assert round(total) == len(SHIFT)
    assert all(each["attainment"] is None or 0 <= each["attainment"] <= 1 for each in bins)
    assert "weft" in table([figures(run)])
    assert not math.isnan(figures(run)["attainment"])


def test_energy_and_cost_stand_beside_attainment_with_what_was_assumed_for_them() -> None:
    run = play(CASE, Static(CASE))
    hours, tokens = run.accelerator_hours, sum(SHIFT.answer_tokens)
    head, line = table([figures(run, watts=400.0, price=2.0)]).splitlines()
    assert head.endswith("Wh/request at 400 W  cost/1M tokens at 2/h")
    assert line.split()[-2:] == [f"{400 * hours / len(SHIFT):.2f}", f"{2e6 * hours / tokens:.2f}"]
    assert "Wh" not in table([figures(run)])


def test_a_policy_is_told_only_what_was_scraped() -> None:
    """With one scrape per minute nothing is known, and nothing moves, before two of them."""
    case = replace(CASE, scrape_seconds=60.0)
    policy: Policy = Weft(case)
    run = play(case, policy, {"prefill": 1, "decode": 5})
    assert all(one.at_seconds >= 120.0 for one in run.decisions)


def test_ten_replicas_at_five_requests_a_second_pass_340_times_as_fast_as_real() -> None:
    """Of one core, Weft's decisions included; about a tenth of what is allowed is needed where this was written."""
    case = replace(
        CASE, trace=Trace.of(poisson(7, 600, 5.0, 1200, 200)), most_replicas=10, scrape_seconds=1.0
    )
    before = time.process_time()
    play(case, Weft(case))
    assert 600 / (time.process_time() - before) > 340


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_replicas_that_change_under_a_full_kv_cache_come_to_an_end(seed: int) -> None:
    """Caches that wait for readers on replicas that are full themselves: nothing waits for itself."""
    small = replace(PROFILE, kv_capacity_tokens=9_000)
    trace = Trace.of([(0.2 * i, 500 + 997 * i * seed % 4000, 1 + 53 * i % 400) for i in range(400)])
    case = replace(CASE, trace=trace, speeds=Speeds(small), planned=small, most_replicas=4)
    steps = [(7.0 * i, {"prefill": 1 + (i * seed) % 3, "decode": 3 - (i * seed) % 3}) for i in range(40)]
    run = play(case, Script(steps, Ways(4, overlap=True)))
    run.world.run_until(100_000.0)
    assert run.world.done == len(trace)
    assert all(one.engine.idle and one.engine.holds_nothing for one in run.world.replicas.values())
    assert all(one.engine.kv_usage == 0.0 for one in run.world.replicas.values())
    assert all(
        one.streams == one.prefill_tokens == one.stream_tokens == 0 for one in run.world.replicas.values()
    )


def test_weft_is_told_that_a_replica_starts_its_engine_anew_to_change_its_role() -> None:
    case = replace(CASE, first={"prefill": 1, "decode": 5}, flip_seconds=60.0)
    moved = play(case, Weft(case)).decisions
    assert moved
    assert all("is away for" in one.reason for one in moved)
    # By label it is gone for a drain only, and beside its old work for no time at all.
    for quick in (replace(case, flip_seconds=2.0), replace(case, overlap=True)):
        assert not any("is away for" in one.reason for one in play(quick, Weft(quick)).decisions)

"""Fixed splits tried in virtual time: what the demo's choice of stretches and objectives rests on."""

from __future__ import annotations

from random import Random

from weft_playground.case import FIRST, Case
from weft_playground.demo.evidence import fixed_splits
from weft_playground.demo.rehearsal import Objectives, rehearse, simulate
from weft_playground.demo.report import share_within
from weft_playground.picker import DECODE, PREFILL, Replica, pick_of_two
from weft_playground.profile import read_profile
from weft_playground.trace import Request, between, play, read_trace

PROFILE = read_profile()
OBJECTIVES = Objectives(3.0, 0.1)


def test_a_lone_request_takes_prefill_transfer_and_its_tokens() -> None:
    (outcome,) = simulate([Request(0.0, 1024, 101)], PROFILE, 1, 1)
    transfer_and_step = outcome.time_to_first_token - PROFILE.prefill(1024)
    assert PROFILE.decode(1) < transfer_and_step < 2 * PROFILE.decode(1)
    assert abs(outcome.inter_token - PROFILE.decode(1)) < 1e-9


def test_every_request_is_answered_under_overload() -> None:
    requests = [Request(0.01 * i, 1000, 50) for i in range(300)]
    assert len(simulate(requests, PROFILE, 1, 2)) == 300


def test_a_front_end_that_knows_two_replicas_of_three_makes_prompts_wait_longer() -> None:
    requests = between(Case(engines="vllm").requests(), FIRST.seconds, 1e9)

    def wait(chance: Random | None) -> float:
        outcomes = simulate(requests, PROFILE, 3, 3, step_tokens=2048, chance=chance)
        return sum(each.time_to_first_token for each in outcomes) / len(outcomes)

    assert wait(Random(1)) > 1.02 * wait(None)


def test_of_two_replicas_the_one_with_fewer_requests_is_picked_and_never_one_out_of_service() -> None:
    replicas = [
        Replica("busy", stage=PREFILL, serving=True, prompts=2),
        Replica("free", stage=PREFILL, serving=True, prompts=1),
        Replica("gone", stage=PREFILL),
        Replica("other", stage=DECODE, serving=True),
    ]
    picked = {pick_of_two(replicas, PREFILL, Random(n)) for n in range(9)}
    assert [one.name for one in picked if one] == ["free"]
    assert pick_of_two(replicas[2:3], PREFILL, Random(1)) is None


def test_the_stretches_want_different_splits_and_the_first_ones_fails_the_second() -> None:
    requests = play(read_trace(), Case().stretches)
    first = rehearse(between(requests, 0.0, FIRST.seconds), PROFILE, Case().replicas, OBJECTIVES)
    second = rehearse(between(requests, FIRST.seconds, 1e9), PROFILE, Case().replicas, OBJECTIVES)
    assert first[0].share_within > 0.95
    assert second[0].share_within > 0.95
    assert second[0].prefill > first[0].prefill
    (kept,) = (each for each in second if each.prefill == first[0].prefill)
    (too_early,) = (each for each in first if each.prefill == second[0].prefill)
    assert kept.share_within < 0.5
    assert too_early.share_within < 0.95


def test_the_best_split_comes_first_and_ties_go_to_the_one_with_more_room() -> None:
    requests = [Request(2.0 * i, 500, 20) for i in range(20)]
    tried = rehearse(requests, PROFILE, 4, OBJECTIVES)
    assert [each.share_within for each in tried] == [1.0, 1.0, 1.0]
    strains = [each.strain_p90 for each in tried]
    assert strains == sorted(strains)


def test_what_every_fixed_split_would_have_done_is_there_for_each_request_of_the_load() -> None:
    requests = [Request(2.0 * i, 500, 20) for i in range(20)]
    every = fixed_splits(requests, Case(seed=4), 4)
    assert [str(each.split) for each in every] == ["1:3", "2:2", "3:1"]
    assert [[result.scheduled for result in each.results] for each in every] == [
        [request.at_seconds for request in requests]
    ] * 3
    assert all(share_within(each.results, OBJECTIVES) == 1.0 for each in every)

"""Fixed splits tried in virtual time: what the demo's choice of stretches and objectives rests on."""

from __future__ import annotations

from weft_dev.demo.case import FIRST, REPLICAS, Case
from weft_dev.demo.profile import read_profile
from weft_dev.demo.rehearsal import Objectives, rehearse, simulate
from weft_dev.demo.trace import Request, play, read_trace

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


def test_no_fixed_split_suits_both_stretches() -> None:
    requests = play(read_trace(), Case().stretches)
    first = [request for request in requests if request.at_seconds < FIRST.seconds]
    second = [
        Request(request.at_seconds - FIRST.seconds, request.prompt_tokens, request.answer_tokens)
        for request in requests
        if request.at_seconds >= FIRST.seconds
    ]
    shares = [
        {
            (each.prefill, each.decode): each.share_within
            for each in rehearse(part, PROFILE, REPLICAS, OBJECTIVES)
        }
        for part in (first, second)
    ]
    best = [max(each, key=lambda split: each[split]) for each in shares]
    assert shares[0][best[0]] > 0.95
    assert shares[1][best[1]] > 0.85
    assert all(min(shares[0][split], shares[1][split]) < 0.9 for split in shares[0])


def test_the_best_split_comes_first_and_ties_go_to_the_one_with_more_room() -> None:
    requests = [Request(2.0 * i, 500, 20) for i in range(20)]
    tried = rehearse(requests, PROFILE, 4, OBJECTIVES)
    assert [each.share_within for each in tried] == [1.0, 1.0, 1.0]
    strains = [each.strain_p90 for each in tried]
    assert strains == sorted(strains)

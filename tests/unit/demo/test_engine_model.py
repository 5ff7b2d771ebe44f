"""The engines' timing in virtual time: what a profile says is what a client would measure."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from weft_playground.engine_model import EngineModel, Sequence
from weft_playground.profile import (
    KV_TRANSFER_SECONDS_PER_TOKEN,
    KV_TRANSFER_SETUP_SECONDS,
    SpeedError,
    read_profile,
    speed_error,
)

PROFILE = read_profile()
SMALL = replace(PROFILE, kv_capacity_tokens=40_000)


def run(model: EngineModel, until: float = math.inf) -> None:
    while (due := model.next_event()) is not None and due <= until:
        model.advance(due)


def arrived(prompt: int, answer: int) -> Sequence:
    return Sequence(prompt, answer, remote_kv=True)


def transfer(prompt: int) -> float:
    return KV_TRANSFER_SETUP_SECONDS + KV_TRANSFER_SECONDS_PER_TOKEN * prompt


def test_the_profile_is_the_published_one() -> None:
    assert round(PROFILE.prefill(1024) * 1000) == 377
    assert round(PROFILE.prefill(512) * 1000) in (195, 196, 197)
    assert round(PROFILE.decode(1) * 1000) == 55
    assert round(PROFILE.decode(32) * 1000) == 72


def test_a_prompt_takes_what_the_profile_says_for_its_length() -> None:
    model, sequence = EngineModel(PROFILE), Sequence(1024, 1, keeps_kv=True)
    model.submit(10.0, sequence)
    run(model)
    assert sequence.first_token == pytest.approx(10.0 + PROFILE.prefill(1024))


def test_prompts_are_prefilled_one_after_the_other_in_order() -> None:
    model = EngineModel(PROFILE)
    sequences = [Sequence(512, 1, keeps_kv=True) for _ in range(3)]
    for sequence in sequences:
        model.submit(0.0, sequence)
    run(model)
    each = PROFILE.prefill(512)
    assert [sequence.first_token for sequence in sequences] == pytest.approx([each, 2 * each, 3 * each])


@pytest.mark.parametrize("batch", [1, 8, 16, 32])
def test_the_token_interval_follows_the_batch(batch: int) -> None:
    model = EngineModel(PROFILE)
    sequences = [arrived(100, 50) for _ in range(batch)]
    for sequence in sequences:
        model.submit(0.0, sequence)
    run(model)
    for sequence in sequences:
        assert sequence.generated == 50
        assert sequence.first_token is not None
        assert sequence.last_token is not None
        interval = (sequence.last_token - sequence.first_token) / 49
        assert interval == pytest.approx(PROFILE.decode(batch))


def test_a_slower_engine_is_slower_by_its_error_in_each_stage() -> None:
    model = EngineModel(PROFILE, SpeedError(prefill=1.25, decode=0.8))
    sequence = Sequence(1024, 11)
    model.submit(0.0, sequence)
    run(model)
    assert sequence.first_token == pytest.approx(1.25 * PROFILE.prefill(1024))
    assert sequence.last_token == pytest.approx(1.25 * PROFILE.prefill(1024) + 10 * 0.8 * PROFILE.decode(1))


def test_a_kv_cache_from_elsewhere_costs_a_transfer_and_no_prefill() -> None:
    model, sequence = EngineModel(PROFILE), arrived(4096, 2)
    model.submit(0.0, sequence)
    run(model)
    assert sequence.first_token == pytest.approx(transfer(4096) + PROFILE.decode(1))


def test_requests_beyond_the_batch_wait_until_one_ends() -> None:
    model = EngineModel(PROFILE)
    first = [arrived(100, 10) for _ in range(PROFILE.max_batch)]
    late = arrived(100, 10)
    for sequence in [*first, late]:
        model.submit(0.0, sequence)
    assert model.requests_waiting == PROFILE.max_batch + 1, "all wait for their KV caches at first"
    run(model, until=0.1)
    assert (model.requests_running, model.requests_waiting) == (PROFILE.max_batch, 1)
    run(model)
    assert late.first_token is not None
    assert late.first_token > max(sequence.last_token or 0 for sequence in first)


def test_requests_that_do_not_fit_the_kv_cache_wait_in_order() -> None:
    model = EngineModel(SMALL)
    big = [arrived(15_000, 20) for _ in range(3)]
    small = arrived(100, 5)
    for sequence in [*big, small]:
        model.submit(0.0, sequence)
    run(model, until=1.0)
    assert (model.requests_running, model.requests_waiting) == (2, 2), "the small one does not overtake"
    assert model.kv_usage == pytest.approx(2 * 15_000 / SMALL.kv_capacity_tokens, rel=0.01)
    run(model)
    assert small.generated == 5
    assert model.kv_usage == 0
    assert model.held_tokens == 0


def test_a_prefilled_kv_cache_is_held_until_it_is_read() -> None:
    model = EngineModel(SMALL)
    kept = [Sequence(20_000, 1, keeps_kv=True) for _ in range(2)]
    blocked = Sequence(1000, 1, keeps_kv=True)
    for sequence in [*kept, blocked]:
        model.submit(0.0, sequence)
    run(model)
    assert blocked.first_token is None
    assert model.kv_usage == 1.0
    model.release(100.0, kept[0])
    run(model)
    assert blocked.first_token == pytest.approx(100.0 + PROFILE.prefill(1000))


def test_a_client_that_leaves_makes_room() -> None:
    model = EngineModel(SMALL)
    leaving, waiting = arrived(30_000, 100), arrived(30_000, 1)
    model.submit(0.0, leaving)
    model.submit(0.0, waiting)
    run(model, until=1.0)
    assert model.requests_waiting == 1
    model.abort(1.0, leaving)
    run(model)
    assert waiting.generated == 1
    assert leaving.generated < 100
    assert model.held_tokens == 0


def test_a_late_caller_does_not_make_the_engine_slower() -> None:
    model, sequence = EngineModel(PROFILE), arrived(100, 100)
    model.submit(0.0, sequence)
    now = 0.0
    while (due := model.next_event()) is not None:
        now = due + 0.03
        model.advance(now)
    assert sequence.last_token == pytest.approx(transfer(100) + 100 * PROFILE.decode(1), abs=1e-6)


def test_an_engine_that_does_both_stages_alternates() -> None:
    model = EngineModel(PROFILE)
    decoding = arrived(100, 20)
    model.submit(0.0, decoding)
    run(model, until=0.2)
    prompts = [Sequence(512, 1, keeps_kv=True) for _ in range(3)]
    for prompt in prompts:
        model.submit(0.2, prompt)
    before = decoding.generated
    run(model, until=0.2 + 3.5 * PROFILE.prefill(512))
    assert decoding.generated > before, "prefills do not starve what is decoding"
    assert prompts[0].generated == 1


def test_with_a_budget_of_tokens_a_step_takes_several_prompts_and_a_part_of_the_next() -> None:
    model = EngineModel(PROFILE, step_tokens=2048)
    first, *others = (Sequence(tokens, 1, keeps_kv=True) for tokens in (100, 1000, 1000, 1000))
    for sequence in (first, *others):
        model.submit(0.0, sequence)
    run(model)
    # The first one is alone when it comes; of the other three 2,048 tokens fit in a step.
    alone = PROFILE.prefill(100)
    both, rest = alone + PROFILE.prefill(2048), alone + PROFILE.prefill(2048) + PROFILE.prefill(952)
    assert first.first_token == pytest.approx(alone)
    assert [each.first_token for each in others] == pytest.approx([both, both, rest])


def test_a_client_that_leaves_in_the_middle_of_its_prompt_leaves_nothing_behind() -> None:
    model, sequence = EngineModel(PROFILE, step_tokens=2048), Sequence(5000, 1, keeps_kv=True)
    model.submit(0.0, sequence)
    model.abort(0.1, sequence)
    run(model)
    assert (model.held_tokens, model.requests_running, model.requests_waiting) == (0, 0, 0)
    assert sequence.first_token is None


def test_with_a_budget_of_tokens_a_kv_cache_is_asked_for_only_when_the_step_under_way_ends() -> None:
    model, running, late = EngineModel(PROFILE, step_tokens=2048), arrived(500, 10), arrived(500, 1)
    model.submit(0.0, running)
    model.advance(transfer(500))
    model.submit(transfer(500) + 0.001, late)
    run(model)
    # Asked for at the end of the first step, so it misses the second.
    assert late.first_token is not None
    assert late.first_token > transfer(500) + 2 * PROFILE.decode(1) + PROFILE.decode(2) * 0.9


def test_the_same_replica_of_both_groups_is_the_same_hardware_and_within_the_stated_error() -> None:
    for seed in range(50):
        errors = [speed_error(seed, replica) for replica in range(9)]
        assert errors == [speed_error(seed, replica) for replica in range(9)]
        for error in errors:
            assert 0.7 * 0.8 <= error.prefill <= 1.3 * 1.2
            assert 0.7 * 0.8 <= error.decode <= 1.3 * 1.2
        ratios = {round(error.prefill / error.decode, 9) for error in errors}
        assert len(ratios) == 1, "the stages' errors are common to all replicas"
    assert speed_error(1, 0) != speed_error(2, 0)

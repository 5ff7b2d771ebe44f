"""The requests of the demo are the recorded ones."""

from __future__ import annotations

from weft_playground.case import FIRST, SECOND, Case
from weft_playground.trace import Stretch, cut, play, prompt_per_answer_token, read_trace

TRACE = read_trace()


def test_the_whole_trace_is_there() -> None:
    assert len(TRACE) == 19_366
    assert 58 * 60 < TRACE[-1].at_seconds < 59 * 60


def test_the_mix_of_the_two_stretches_differs() -> None:
    requests = play(TRACE, Case().stretches)
    first = [request for request in requests if request.at_seconds < FIRST.seconds]
    second = [request for request in requests if request.at_seconds >= FIRST.seconds]
    assert prompt_per_answer_token(second) > 2 * prompt_per_answer_token(first)
    rates = len(first) / FIRST.seconds, len(second) / SECOND.seconds
    assert max(rates) < 1.25 * min(rates), "the mix shifts, not the request rate"


def test_times_rise_and_stay_within_the_load() -> None:
    case = Case()
    times = [request.at_seconds for request in play(TRACE, case.stretches)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < case.load_seconds


def test_the_same_case_gives_the_same_requests() -> None:
    case = Case(offset_minutes=3)
    once, again = (play(TRACE, case.stretches, offset_minutes=case.offset_minutes) for _ in range(2))
    assert once == again
    assert once != play(TRACE, case.stretches)


def test_a_window_past_the_end_goes_on_at_the_beginning() -> None:
    window = cut(TRACE, 58 * 60, 60)
    assert window[-1].at_seconds > 30


def test_a_superposed_copy_is_thinned_to_its_part() -> None:
    alone, copied = (
        len(play(TRACE, (Stretch(0, 600, second_copy_minute=10, second_copy_permille=part),)))
        for part in (0, 500)
    )
    copy = len(cut(TRACE, 600, 600))
    assert abs(copied - alone - copy / 2) < 0.1 * copy

"""When the engine model agrees with engines that run, and when nothing can be said."""

from __future__ import annotations

from weft_playground.demo.comparison import judge, table
from weft_playground.demo.rehearsal import Objectives, Outcome
from weft_playground.demo.report import EXIT_FAILED, EXIT_OK, EXIT_TOO_SLOW
from weft_playground.lag import Lag
from weft_playground.load import Result

OBJECTIVES = Objectives(3.0, 0.1)
RUNS = [[Outcome(0.5, 0.05), Outcome(0.6, 0.06), Outcome(0.9, 0.07)]]
SHIFT = 100.0
LATE = Lag("engine", 100, 0.0, 0.1, 0.2, 0.05)


def results(*, first: float = 0.6, between: float = 0.06, ok: bool = True) -> list[Result]:
    return [
        Result("g", index, index * 30.0, 100, 10, first, between, between, 10, 0.0, ok, "" if ok else "cut")
        for index in range(3)
    ]


def test_medians_within_fifteen_per_cent_agree() -> None:
    assert judge(results(first=0.69, between=0.053), RUNS, (), OBJECTIVES, SHIFT).status == EXIT_OK


def test_a_median_that_is_further_off_is_named() -> None:
    found = judge(results(first=0.8), RUNS, (), OBJECTIVES, SHIFT)
    assert (found.status, found.reasons) == (
        EXIT_FAILED,
        [
            "the median time to first token, first stretch, is computed -25 % off",
            "the median time to first token, all, is computed -25 % off",
        ],
    )
    assert judge(results(between=0.05), RUNS, (), OBJECTIVES, SHIFT).status == EXIT_FAILED


def test_a_stretch_that_is_off_is_not_hidden_by_the_other_one() -> None:
    found = judge(results(), RUNS, (), OBJECTIVES, 40.0)
    assert found.reasons == [
        "the median time to first token, second stretch, is computed +50 % off",
        "the median time between tokens, second stretch, is computed +17 % off",
    ]


def test_where_the_front_end_picks_by_chance_the_medians_are_of_all_runs() -> None:
    far = [Outcome(6.0, 0.06)] * 3
    assert judge(results(), [far, *5 * RUNS], (), OBJECTIVES, SHIFT).status == EXIT_OK


def test_engines_that_ran_late_say_nothing_of_the_model() -> None:
    assert judge(results(first=9.0), RUNS, [LATE], OBJECTIVES, SHIFT).status == EXIT_TOO_SLOW


def test_a_request_that_failed_or_is_missing_is_a_failure_on_a_slow_machine_too() -> None:
    assert judge(results(ok=False), RUNS, [LATE], OBJECTIVES, SHIFT).status == EXIT_FAILED
    assert judge(results()[:2], RUNS, [LATE], OBJECTIVES, SHIFT).status == EXIT_FAILED


def test_the_table_has_each_stretch_and_all_requests() -> None:
    text = table("vllm", results(), RUNS, 40.0)
    assert "| time to first token, second stretch | 1 | 600 ms | 900 ms | +50 % |" in text
    assert "| time between tokens, all | 3 | 60 ms | 60 ms | +0 % |" in text

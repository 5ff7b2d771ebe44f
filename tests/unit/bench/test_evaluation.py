"""The pages that are made of what was played, and what they say of it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.extend(
    str(Path(__file__).resolve().parents[2] / "bench" / each) for each in ("", "balancing", "rehearsal")
)
import days
import evaluate
import evaluation
import results
import tables
from results import Run

import bench


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return evaluation.sections()


@pytest.mark.parametrize("name", evaluation.PAGES)
def test_every_generated_part_of_a_page_is_of_the_runs_that_are_kept(name: str, made: dict[str, str]) -> None:
    text = (bench.ROOT / name).read_text()
    assert evaluation.rewritten(text, made) == text, "run `make evaluation ARGS=--tables`"


def test_every_table_that_is_made_is_on_a_page(made: dict[str, str]) -> None:
    pages = "".join((bench.ROOT / name).read_text() for name in evaluation.PAGES)
    assert made.keys() == {part[1] for part in evaluation.GENERATED.findall(pages)}


@pytest.mark.parametrize("name", ["rehearsal", "restarts"])
def test_no_policy_is_reported_to_have_met_more_than_a_schedule_that_knew_the_requests(name: str) -> None:
    assert evaluate.above_optimum(results.read(results.FOLDER / f"{name}.csv", Run)) == []


RUN = Run("scarce", 1, tables.WEFT, True, 1.0, "3:3", 0.80, 1000, 200_000, 4, 6.0, "abc")
FIXED = replace(RUN, policy=tables.STATIC, scrape_seconds=0.0, split="4:2", within=0.16)
MIXTURE = replace(FIXED, policy=tables.AGGREGATED, split="1:4:1", within=0.52)
SHIPPED = replace(FIXED, policy=tables.SHIPPED, split="3:3", within=0.40)


def line_of(table: str, begin: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(f"| {begin}"))


def test_a_schedule_that_knew_the_requests_and_met_less_is_said() -> None:
    bound = replace(FIXED, policy=tables.OPTIMUM, within=0.7)
    assert len(evaluate.above_optimum([bound, RUN])) == 1
    # Aggregated replicas are another means, and another seed other requests.
    mixing = (MIXTURE, replace(RUN, policy=tables.WEFT_MIXED))
    others = (*(replace(run, within=0.9) for run in mixing), replace(RUN, seed=2))
    assert evaluate.above_optimum([bound, *others]) == []


@pytest.mark.parametrize(("within", "said"), [(0.511, "met"), (0.509, "**missed**")])
def test_weft_may_be_one_point_below_the_best_fixed_split_in_its_worst_seed(within: float, said: str) -> None:
    good = [replace(run, seed=2) for run in (RUN, FIXED, MIXTURE)]
    played = tables.Played([replace(RUN, within=within), FIXED, MIXTURE, *good])
    assert line_of(tables.against_static(played), "scarce | drains first").endswith(f"(seed 1): {said} |")
    assert ("1 of 2 runs" in tables.losses(played)) is (said == "**missed**")
    assert f"{int(said == 'met')} of 1 cases" in line_of(tables.goals(played), "never more than")


def test_the_goal_of_twice_the_goodput_counts_seeds_in_which_the_other_planner_misses_its_objective() -> None:
    fine = [replace(run, seed=2, within=0.96) for run in (RUN, SHIPPED)]
    runs = [RUN, FIXED, SHIPPED, *fine]
    assert "| 2.00, least 2.00, 1 seed: met |" in tables.goals(tables.Played(runs))
    runs[0] = replace(RUN, within=0.79)
    assert "| 1.97, least 1.97, 1 seed: **missed** |" in tables.goals(tables.Played(runs))


def test_a_mean_says_so_where_it_is_of_fewer_seeds_than_others() -> None:
    table = tables.shares(tables.Played([RUN, replace(RUN, seed=2, within=0.6), FIXED]))
    assert "| 70.0 |" in table
    assert "| 16.0 (seed 1) |" in table


def test_a_policy_that_did_better_than_weft_is_named() -> None:
    better = replace(RUN, policy="ratio", within=0.83)
    assert "| 83.0 | 80.0 | +3.0 |" in tables.above_weft(tables.Played([RUN, better, FIXED]))


def test_runs_that_are_played_again_take_the_place_of_all_that_was_kept_of_the_same(tmp_path: Path) -> None:
    other = replace(FIXED, split="5:1", within=0.2)
    again = replace(FIXED, within=0.17, commit="def")
    path = tmp_path / "results.csv"
    results.write(path, results.merged([FIXED, other, MIXTURE, RUN], [again]))
    assert results.read(path, Run) == sorted([again, MIXTURE, RUN])


@pytest.mark.parametrize(
    ("hours", "attainment", "said"),
    [(575.0, 0.951, "met"), (577.0, 0.951, "**missed**"), (575.0, 0.949, "nor is the promise kept")],
)
def test_a_day_saves_a_fifth_of_the_hours_only_where_it_keeps_its_promise(
    hours: float, attainment: float, said: str
) -> None:
    fixed = days.Row("a-day", 0.95, days.FIXED, 0.0, "2:13", 0.952, 720.0, 0.0, 0, "abc")
    weft = replace(fixed, policy=days.WEFT, attainment=attainment, accelerator_hours=hours)
    assert re.search(rf"fewer\) \| .*{re.escape(said)}", days.table([fixed, weft]))


@pytest.mark.parametrize(("often", "said"), [(6.0, "6.0: met"), (6.5, "6.5: **missed**")])
def test_a_load_that_stays_has_a_table_of_its_own_and_may_be_scaled_six_times_an_hour(
    often: float, said: str
) -> None:
    day = days.Row("a-day", 0.95, days.FIXED, 0.0, "2:13", 0.952, 720.0, 0.0, 0, "abc")
    steady = days.Row("stationary, 3 h", 0.95, days.WEFT, 60.0, "3:10", 0.974, 108.9, often, 3, "abc")
    made = days.sections([day, steady])
    assert said in made["stationary"]
    assert "stationary" not in made["size"]

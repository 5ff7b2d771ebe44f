"""The bound that knows the trace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unit.rehearse.test_play import CASE, poisson
from weft.rehearse.dynamo import Dynamo
from weft.rehearse.hpa import Hpa
from weft.rehearse.optimum import optimum
from weft.rehearse.play import play
from weft.rehearse.ratio import Ratio
from weft.rehearse.static import best_static
from weft.rehearse.trace import Trace
from weft.rehearse.weft_policy import Weft

SHIFT = Trace.of([*poisson(1, 120, 4.0, 600, 300), *poisson(2, 180, 4.0, 2600, 60, start=120)])
"""Long answers, then long prompts."""
SWINGS = Trace.of(
    [
        row
        for i in range(4)
        for row in poisson(10 + i, 60, 4.0, *((600, 300) if i % 2 else (2600, 60)), start=60 * i)
    ]
)
"""A mix that alternates every minute."""


@pytest.fixture(autouse=True)
def small_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one, in finer steps, takes three times as long, and can only find more; so few replicas have fewer
    splits than are gone on from."""
    monkeypatch.setattr("weft.rehearse.optimum.STEPS_SECONDS", (30.0,))
    monkeypatch.setattr("weft.rehearse.optimum.KEPT", 3)


@pytest.mark.parametrize(("trace", "overlap"), [(SHIFT, False), (SWINGS, True)])
def test_no_policy_meets_more_than_a_schedule_that_knows_the_trace(trace: Trace, overlap: bool) -> None:
    case = replace(
        CASE,
        trace=trace,
        least_replicas=4,
        most_replicas=4,
        overlap=overlap,
        cold_start_seconds=5.0,
        stage_error=0.2,
        replica_error=0.1,
    )
    bound = optimum(case, False, lambda _: None)
    assert bound.attainment > 0.85
    assert best_static(case, False, lambda _: None).world.met <= bound.world.met
    for policy in (Weft, Hpa, Dynamo, Ratio):
        run = play(case, policy(case))
        assert run.world.met <= bound.world.met, run.policy
        assert max(held for _, _, held in run.sizes) <= 4
        assert run.world.done > 0


def test_it_needs_no_move_where_one_split_serves_all() -> None:
    case = replace(CASE, trace=Trace.of([(float(i), 300, 50) for i in range(120)]))
    run = optimum(case, False, lambda _: None)
    assert run.attainment == 1.0
    assert run.flips == 0


def test_it_takes_what_a_queue_costs_later_for_more_than_what_is_met_now() -> None:
    """Three replicas, far too few, and long prompts, long answers, long prompts: who looks at what was met until now
    comes to 8 %."""
    swings = [((600, 300), (2600, 60))[i % 2 == 0] for i in range(3)]
    rows = [row for i, mix in enumerate(swings) for row in poisson(10 + i, 180, 4.5, *mix, start=180 * i)]
    case = replace(
        CASE,
        trace=Trace.of(rows),
        least_replicas=3,
        most_replicas=3,
        overlap=True,
        stage_error=0.2,
        replica_error=0.1,
    )
    assert optimum(case, False, lambda _: None).attainment > 0.24

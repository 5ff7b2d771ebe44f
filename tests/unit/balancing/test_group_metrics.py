"""A group whose metrics cannot be trusted, through the reconciler, in memory: what is left out, what holds."""

from __future__ import annotations

from itertools import pairwise

import pytest

from support.fleet import GROUP, MODEL, NAMESPACE, Fleet, started
from support.inference import PROMPT_HEAVY
from weft.api.names import LABEL_ROLE
from weft.api.resources import INFERENCE_GROUPS, PODS

BAD_ENGINES = [
    ("age", 60.0, "Stale"),
    ("running", None, "SeriesMissing"),
    ("running", float("nan"), "NotANumber"),
    ("busy_share", float("inf"), "NotANumber"),
    ("kv_usage", 40.0, "NotAShare"),
    ("targets", 2.0, "ScrapedTwice"),
    ("copies", 2.0, "ScrapedTwice"),
    ("resets", 1.0, "CounterReset"),
]


@pytest.mark.parametrize(("signal", "value", "reason"), BAD_ENGINES)
async def test_one_replica_whose_metrics_cannot_be_trusted_is_left_out_and_named(
    signal: str, value: float | None, reason: str
) -> None:
    fleet = await started()
    fleet.traffic = PROMPT_HEAVY
    fleet.changed_values = {(f"engine:{signal}", f"{GROUP}-4"): value}
    await fleet.run(60)
    assert fleet.split() == {"prefill": 5, "decode": 4}
    assert fleet.condition("MetricsFresh") == ("True", "PartlyFresh")
    assert f"pod {GROUP}-4" in fleet.message("MetricsFresh")
    assert reason in fleet.message("MetricsFresh")


@pytest.mark.parametrize(("signal", "value", "reason"), BAD_ENGINES)
async def test_more_than_half_of_a_stage_that_cannot_be_trusted_hold_the_split(
    signal: str, value: float | None, reason: str
) -> None:
    fleet = await started()
    fleet.traffic = PROMPT_HEAVY
    prefill = [
        pod["metadata"]["name"] for pod in fleet.pods() if pod["metadata"]["labels"][LABEL_ROLE] == "prefill"
    ]
    fleet.changed_values = {(f"engine:{signal}", pod): value for pod in prefill[:2]}
    await fleet.run(60)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.condition("MetricsFresh") == ("False", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({("front:requests_long", MODEL): float("nan")}, "NotANumber"),
        ({("front:requests_short", MODEL): None}, "SeriesMissing"),
        ({("front:age", MODEL): 60.0}, "Stale"),
        ({("front:jobs", MODEL): 2.0}, "ScrapedTwice"),
        ({("front:resets", MODEL): 1.0}, "CounterReset"),
    ],
)
async def test_metrics_that_cannot_be_trusted_hold_the_split_and_say_why(
    change: dict[tuple[str, str], float | None], reason: str
) -> None:
    fleet = await started()
    fleet.traffic = PROMPT_HEAVY
    fleet.changed_values = change
    await fleet.run(60)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.condition("MetricsFresh") == ("False", reason)
    assert fleet.condition("ObjectivesMet")[0] == "Unknown"
    assert fleet.condition("DemandEstimated") == ("Unknown", "MetricsNotFresh")
    fleet.changed_values = {}
    await fleet.run(45)
    assert fleet.split() == {"prefill": 5, "decode": 4}


async def test_metrics_that_come_and_go_every_second_do_not_make_the_condition_flicker() -> None:
    fleet = await started()
    seen = []
    for second in range(60):
        age = 60.0 if second % 2 else 0.0
        fleet.changed_values = {("front:age", MODEL): age, ("engine:age", f"{GROUP}-4"): age}
        await fleet.run(1)
        seen.append((fleet.condition("MetricsFresh"), fleet.message("MetricsFresh")))
    changes = sum(before != after for before, after in pairwise(seen))
    assert changes <= 1


async def test_a_metrics_server_that_is_down_holds_the_split_but_not_the_replicas() -> None:
    fleet = await started()
    fleet.broken = "the Prometheus server did not answer in time"
    fleet.traffic = PROMPT_HEAVY
    del fleet.cluster.objects[(PODS, NAMESPACE, f"{GROUP}-2")]
    await fleet.run(60)
    assert fleet.split() == {"prefill": 3, "decode": 6}
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert fleet.condition("MetricsFresh") == ("False", "SourceUnavailable")


@pytest.mark.shows("InferenceGroup.spec.metrics.source")
async def test_an_unknown_source_is_a_condition_that_names_it() -> None:
    fleet = Fleet()
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["metrics"].update(source="elsewhere"))
    await fleet.run(5)
    assert fleet.condition("MetricsFresh") == ("False", "SourceNotFound")
    assert fleet.serving() == {"prefill": 3, "decode": 6}

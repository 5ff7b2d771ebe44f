"""What a replica takes to start, as its objects tell it, and from when on its engine is believed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from weft.api import Stage
from weft.api.resources import LOGICAL_NODES, PODS
from weft.balancing.moments import Moments
from weft.balancing.replicas import Replica, cold_start_seconds, replica, restart_seconds
from weft.balancing.splits import Terms, longest_drain
from weft.balancing.state import RoleState, Split
from weft.cluster import Object
from weft.controllers import Now
from weft.runtime.lean import lean

MADE = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    return (MADE + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def observed(
    pod_made: float,
    ready: float,
    bound: float = 4,
    role_since: float | None = None,
    started: tuple[float, ...] = (),
    annotations: dict[str, str] | None = None,
) -> Replica:
    """A replica on a logical node that was made at 0; all in seconds."""
    node: Object = {
        "apiVersion": LOGICAL_NODES.api_version,
        "kind": "LogicalNode",
        "metadata": {"name": "r-0", "namespace": "demo", "uid": "n", "creationTimestamp": at(0)},
        "spec": {"accelerators": [{"name": "main", "count": 2}]},
        "status": {"conditions": [_condition("Bound", bound)]},
    }
    pod: Object = {
        "metadata": {
            "name": "r-0",
            "uid": "p",
            "creationTimestamp": at(pod_made),
            "annotations": annotations
            or ({} if role_since is None else {"weft.dev/role-since": at(role_since)}),
        },
        "status": {
            "phase": "Running",
            "conditions": [_condition("ContainersReady", ready)],
            "containerStatuses": [{"state": {"running": {"startedAt": at(each)}}} for each in started],
        },
    }
    labels = {"weft.dev/group": "g"}
    pod["metadata"]["labels"] = labels
    return replica("r-0", lean(PODS, pod), node)


def _condition(kind: str, seconds: float) -> Object:
    return {"type": kind, "status": "True", "reason": "Yes", "message": "", "lastTransitionTime": at(seconds)}


def test_a_first_start_counts_the_attaching_of_devices_and_a_restart_does_not() -> None:
    first = observed(pod_made=5, ready=95)
    assert (cold_start_seconds([first]), restart_seconds([first])) == (94, 90)


def test_a_restart_an_hour_later_is_not_taken_for_a_start_of_an_hour() -> None:
    again = observed(pod_made=3600, ready=3602)
    assert (cold_start_seconds([again]), restart_seconds([again])) == (6, 2)


def test_restarts_that_were_seen_tell_more_of_the_next_one_than_first_starts_that_fetched_images() -> None:
    firsts = [observed(pod_made=5, ready=ready) for ready in (305, 310, 320)]
    assert restart_seconds(firsts) == 300
    assert restart_seconds([*firsts, observed(pod_made=3600, ready=3640)]) == 40


def test_while_no_restart_was_seen_the_fetching_of_images_is_no_part_of_one() -> None:
    firsts = [observed(pod_made=5, ready=ready, started=(265, 270)) for ready in (305, 310)]
    assert (cold_start_seconds(firsts), restart_seconds(firsts)) == (306.5, 40)
    assert restart_seconds([*firsts, observed(pod_made=3600, ready=3640, started=(3602,))]) == 40


def test_a_pod_that_was_made_before_its_devices_were_there_took_no_longer_than_it_exists() -> None:
    assert cold_start_seconds([observed(pod_made=1, ready=21, bound=10)]) == 20


@pytest.mark.parametrize(
    ("role_since", "one_role"),
    [(2000, True), (1000, True), (2500, False)],
    ids=["since its making", "since before the window", "changed within the window"],
)
def test_an_engine_that_has_had_one_role_is_believed_from_its_first_second_on(
    role_since: float, one_role: bool
) -> None:
    one = observed(pod_made=2000 if role_since == 2000 else 10, ready=2005, role_since=role_since)
    assert one.had_one_role(MADE + timedelta(seconds=2400)) is one_role


def test_a_prefill_replica_whose_kv_caches_may_still_be_read_is_priced_as_away_for_that_long() -> None:
    role = RoleState("prefill", Stage.PREFILL, 1, 5, 3, 2, "all", hold_seconds=30.0)
    roles = (role, replace(role, name="decode", stage=Stage.DECODE, hold_seconds=0.0))
    terms = Terms(300.0, 5.0, {Stage.PREFILL: 1.0, Stage.DECODE: 20.0}, False)
    three = Split.of({"prefill": 3, "decode": 3})
    assert longest_drain(three, Split.of({"prefill": 2, "decode": 4}), roles, terms) == 30.0
    assert longest_drain(three, Split.of({"prefill": 4, "decode": 2}), roles, terms) == 20.0


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"]
)
def test_a_moment_at_an_end_of_the_calendar_which_a_tenant_wrote_stops_no_group(moment: str) -> None:
    one = observed(pod_made=5, ready=95, annotations={"weft.dev/role-since": moment})
    moments = Moments()
    for wall in (MADE, MADE - timedelta(hours=1)):  # the clock is set back
        moments.told("p", "role", one.role_since, Now(wall, 1000.0))
    assert one.role_since is None

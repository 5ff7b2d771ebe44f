"""Promises of balancing that are easily lost in a change; `make mutants` breaks each and runs these."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from support.fleet import GROUP, Fleet
from support.inference import ANSWER_HEAVY, T0
from weft.api import FlipMethod, RebalanceMode, Stage, Transfer, TransferStep
from weft.api.names import LABEL_ROLE
from weft.api.resources import INFERENCE_ROLES
from weft.balancing.drain import idle, may_stop
from weft.balancing.moments import Moments
from weft.balancing.replicas import Replica
from weft.balancing.state import PodLoad, Split
from weft.balancing.steps import GateReason
from weft.balancing.transfers import called_back, choose
from weft.controllers import Now

AT = T0 + timedelta(seconds=100)


def out_of_the_router(stage: str) -> Replica:
    since = {"gate_changed_at": T0, "ready_changed_at": T0}
    return Replica("llama-0", "x", has_pod=True, pod_running=True, gate=False, stage=stage, **since)


def load(requests: float) -> PodLoad:
    return PodLoad(running=requests, waiting=0.0, sampled_at=AT)


def test_a_prefill_replica_stays_while_decode_replicas_may_read_its_kv_caches() -> None:
    def ends(seconds_idle: int, others: float = 1.0, stage: str = "prefill") -> bool:
        # Its last prompt was computed 50 s after it had left the router: its lease begins then.
        idle_since = T0 + timedelta(seconds=50)
        replica = replace(out_of_the_router(stage), idle_since=idle_since)
        now = idle_since + timedelta(seconds=seconds_idle)
        return may_stop(replica, load(0), [load(others)], False, 1, 120, False, 600, now)

    assert not ends(119)
    assert ends(120)
    assert ends(119, others=0.0), "nobody is left who could read"
    assert ends(119, stage="decode"), "nobody reads from a decode replica"


def test_how_long_a_replica_has_been_idle_is_counted_anew_after_it_had_something_to_do() -> None:
    moments = Moments()

    def idle_since(seconds: float) -> datetime:
        return moments.since("pod", "idle", Now(T0 + timedelta(seconds=seconds), seconds))

    assert idle_since(0) == T0
    moments.forget_others()
    assert idle_since(20) == T0
    moments.forget_others()
    moments.forget_others()  # a pass in which it was not idle
    assert idle_since(30) == T0 + timedelta(seconds=30)


def test_a_prefill_replica_goes_when_its_engine_says_that_its_kv_caches_were_read() -> None:
    def ends(kv_usage: float | None, tells: bool = True, late: datetime | None = None) -> bool:
        here = replace(load(0), kv_usage=kv_usage)
        return may_stop(out_of_the_router("prefill"), here, [load(1)], False, 1, 120, tells, 600, late or T0)

    assert ends(0.0)
    assert not ends(0.001), "some are still to be read"
    assert not ends(0.001, late=T0 + timedelta(seconds=599)), "and no lease says otherwise"
    assert ends(0.001, late=T0 + timedelta(seconds=601)), "but the drain timed out"
    assert not ends(None), "what is not told is not zero"
    assert not ends(0.0, tells=False), "of an engine whose figure was not seen to say it"


def test_an_engine_is_ended_by_what_was_scraped_when_a_late_router_has_sent_its_last_request() -> None:
    def ends(scraped_after: float, scrape_seconds: float = 1.0, prompts_wait: bool = False) -> bool:
        at = T0 + timedelta(seconds=scraped_after)
        here = PodLoad(0.0, 0.0, sampled_at=at)
        decode = out_of_the_router("decode")
        return may_stop(decode, here, [load(1)], prompts_wait, scrape_seconds, 0, False, 600, at)

    for scrape_seconds in (1.0, 5.0, 15.0):
        assert not ends(10.9, scrape_seconds)
        assert ends(11.0, scrape_seconds)
    # A request that was sent to it before may still wait for its prompt to be read.
    assert not ends(29.9, prompts_wait=True)
    assert ends(30.0, prompts_wait=True)


def test_a_replica_counts_as_idle_only_by_what_was_scraped_after_it_left_the_router() -> None:
    def is_idle(scraped_seconds_after: float, scrape_seconds: float, requests: float = 0.0) -> bool:
        load = PodLoad(requests, 0.0, sampled_at=T0 + timedelta(seconds=scraped_seconds_after))
        return idle(out_of_the_router("prefill"), load, scrape_seconds)

    for scrape_seconds in (5.0, 15.0):
        assert not is_idle(5.9, scrape_seconds), "until then the router may still have been sending"
        assert is_idle(6, scrape_seconds)
        assert not is_idle(6, scrape_seconds, requests=1.0)
    assert not is_idle(1.9, 1.0)
    assert is_idle(2, 1.0)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
async def test_a_metric_that_is_no_count_is_left_out(value: float) -> None:
    fleet = Fleet()
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    fleet.changed_values[("engine:running", f"{GROUP}-0")] = value
    await fleet.run(2)
    assert fleet.condition("MetricsFresh") == ("True", "PartlyFresh")
    assert "NotANumber" in fleet.message("MetricsFresh")


async def test_of_those_that_can_change_their_role_the_least_loaded_one_does() -> None:
    fleet = Fleet(mode="Paused")
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    decode = [
        pod["metadata"]["name"] for pod in fleet.pods() if pod["metadata"]["labels"][LABEL_ROLE] == "decode"
    ]
    free = decode[3]
    fleet.requests = {name: 2.0 for name in decode if name != free}
    fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=4))
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=5))
    await fleet.run(20)
    moved = [
        p
        for p in fleet.pods()
        if p["metadata"]["name"] in decode and p["metadata"]["labels"][LABEL_ROLE] == "prefill"
    ]
    assert [pod["metadata"]["name"] for pod in moved] == [free]


def replica(number: int, role: str, ready: bool = True, **gate: Any) -> Replica:
    name = f"{GROUP}-{number}"
    return Replica(name, role, has_pod=True, pod_running=True, ready=ready, gate=True, **gate)


def group(*replicas: Replica) -> Any:
    """What `choose` looks at, of a group of two roles with one replica each at least."""
    stages = {"prefill": Stage.PREFILL, "decode": Stage.DECODE}
    return SimpleNamespace(
        roles={
            name: SimpleNamespace(spec=SimpleNamespace(min_replicas=1, stage=stage))
            for name, stage in stages.items()
        },
        kinds={"prefill": "same", "decode": "same"},
        replicas=replicas,
        reading=SimpleNamespace(loads={}),
        drains_first=True,
        engine_roles={},
        own_speeds={},
        group=SimpleNamespace(
            spec=SimpleNamespace(
                rebalance=SimpleNamespace(cooldown_seconds=30, flip=FlipMethod.LABEL, mode=RebalanceMode.AUTO)
            )
        ),
    )


WANTED = Split.of({"prefill": 1, "decode": 2})


def test_the_last_replica_that_serves_a_role_is_not_moved() -> None:
    moves, _ = choose(
        WANTED, group(replica(0, "prefill"), replica(1, "prefill"), replica(2, "decode")), (), AT
    )
    assert [(move.from_, move.to) for move in moves] == [("prefill", "decode")]
    broken = replica(1, "prefill", ready=False)
    moves, obstacle = choose(WANTED, group(replica(0, "prefill"), broken, replica(2, "decode")), (), AT)
    assert moves == ()
    assert obstacle is not None
    assert obstacle.reason == "NoSpareReplica"


def test_a_replica_that_was_just_rolled_back_is_left_alone_for_the_cooldown() -> None:
    back = {"gate_reason": GateReason.ROLLED_BACK, "gate_changed_at": AT}
    here = group(replica(0, "prefill", **back), replica(1, "prefill", **back), replica(2, "decode"))
    assert choose(WANTED, here, (), AT + timedelta(seconds=29))[0] == ()
    assert len(choose(WANTED, here, (), AT + timedelta(seconds=30))[0]) == 1


def test_of_those_that_still_drain_for_a_role_with_too_many_the_last_to_have_left_goes_back() -> None:
    def leaves(number: int, step: TransferStep, seconds: int) -> Transfer:
        start = AT + timedelta(seconds=seconds)
        return Transfer(
            name=f"t{number}",
            from_="prefill",
            to="decode",
            replica=f"llama-{number}",
            step=step,
            start_time=start,
        )

    here = group(*(replica(number, "prefill") for number in range(4)), replica(4, "decode"))
    drain, change = TransferStep.DRAINING, TransferStep.SWITCHING
    transfers = (leaves(0, drain, 0), leaves(1, drain, 5), leaves(2, change, 9))
    kept, notes = called_back(Split.of({"prefill": 2, "decode": 3}), here, transfers)
    assert [one.step for one in kept] == [drain, TransferStep.ROLLING_BACK, change]
    assert [note.reason for note in notes] == ["TransferCalledBack"]
    again, _ = called_back(Split.of({"prefill": 2, "decode": 3}), here, kept)
    assert again == kept
    assert called_back(Split.of({"prefill": 1, "decode": 4}), here, transfers) == (transfers, ())
    assert choose(Split.of({"prefill": 2, "decode": 3}), here, kept, AT)[0] == ()

"""A router that goes on sending requests to a replica that has left: what Weft sees of it, says, and no longer does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta

import pytest

from support.fleet import GROUP, Fleet, condition
from support.inference import ANSWER_HEAVY, PROMPT_HEAVY, T0, known, steady
from weft.api import InferenceGroup
from weft.api.names import GATE_SERVING
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES
from weft.balancing.plan import SplitPlan
from weft.balancing.replicas import Replica
from weft.balancing.sent_late import SentLate, router_keeps_sending
from weft.balancing.state import PodLoad, Split
from weft.balancing.windows import permit, within

OUT = Replica("out", "decode", pod_uid="1", pod_running=True, gate=False, gate_changed_at=T0, stage="decode")
READS = Replica("reads", "prefill", pod_uid="2", pod_running=True, gate=True, ready=True, stage="prefill")


def load(seconds: float, running: float, ended: float | None, waiting: float = 0.0) -> PodLoad:
    return PodLoad(running, waiting, sampled_at=T0 + timedelta(seconds=seconds), ended=ended)


def named(
    counts: Iterable[tuple[float, float, float | None]],
    out: Replica = OUT,
    prompts: Callable[[float], tuple[float, float | None]] = lambda at: (0.0, at),
) -> frozenset[str]:
    """What is said at the end of these counts of a replica that left at T0: seconds, running, ended. `prompts`: what
    waits at the replica that reads, and has ended there."""
    late, said = SentLate(), frozenset[str]()
    for seconds, running, ended in counts:
        waiting, read = prompts(seconds)
        loads = {out.name: load(seconds, running, ended), READS.name: load(seconds, 1.0, read, waiting)}
        said = late.of([out, READS], loads, seconds)
    return said


def each(
    seconds: range, count: Callable[[int], tuple[float, float | None]]
) -> list[tuple[float, float, float | None]]:
    return [(at, *count(at)) for at in seconds]


STAY = range(0, 600, 5)


def test_requests_that_go_on_beginning_are_seen_whether_or_not_the_number_under_way_changes() -> None:
    assert named(each(STAY[:12], lambda at: (8.0, at / 2)))
    assert named(each(STAY[:12], lambda at: (8.0 + at / 2, 0.0))), (
        "answers of minutes, of which none has ended"
    )


QUIET: dict[str, list[tuple[float, float, float | None]]] = {
    "answers of minutes that end one by one": each(
        STAY, lambda at: (max(0.0, 32.0 - at // 15), min(32.0, at // 15))
    ),
    "answers that all end at last": each(STAY, lambda at: (32.0, 0.0) if at < 400 else (0.0, 32.0)),
    "a router that is half a minute late": each(STAY, lambda at: (16.0, min(at, 30) * 2.0)),
    "gauges behind the counters": each(
        STAY, lambda at: (32.0 if at <= 300 else 0.0, 0.0 if at < 300 else 32.0)
    ),
    "requests that their clients gave up": each(STAY, lambda at: (max(0.0, 32.0 - at // 5), 0.0)),
    "an engine that was started anew": each(STAY, lambda at: (0.0, 900.0 if at < 200 else 0.0)),
    "an exporter without the counter": each(STAY, lambda at: (8.0 + at, None)),
    "a person who asks the engine itself": each(STAY, lambda at: (0.0, float(at // 150))),
    "one scrape and none any more": [(60.0, 8.0, 100.0)] * 100,
}


@pytest.mark.parametrize("counts", QUIET.values(), ids=QUIET)
def test_what_a_replica_still_has_to_do_is_no_router_that_keeps_sending(
    counts: list[tuple[float, float, float | None]],
) -> None:
    assert named(counts) == frozenset()


def test_a_request_whose_prompt_waits_reaches_the_decode_replica_that_was_chosen_for_it_late() -> None:
    # One a second is read, for two minutes of them were there.
    answers = each(STAY[:50], lambda at: (4.0, at / 2))

    def queue(at: float) -> tuple[float, float]:
        return 120.0, at

    assert named([one for one in answers if one[0] <= 130], prompts=queue) == frozenset()
    assert named(answers, prompts=queue) == {"out"}, "those have been read, and it goes on"
    ends = [(at, running, min(ended, 65.0)) for at, running, ended in answers]
    assert named(ends, prompts=queue) == frozenset(), "it does not"
    assert named(answers[:12], replace(OUT, role="prefill", stage="prefill"), queue) == {"out"}, (
        "nobody hands it on"
    )


def test_a_decode_replica_is_not_judged_where_nothing_tells_when_the_prompts_of_before_were_read() -> None:
    answers = each(STAY[:50], lambda at: (4.0, at / 2))
    assert named(answers, prompts=lambda at: (0.0, None)) == frozenset(), (
        "one is always there, and none is counted"
    )


def test_without_knowing_what_prompts_wait_nothing_is_said_of_a_decode_replica() -> None:
    late = SentLate()
    for at in range(0, 300, 5):
        assert not late.of([OUT, READS], {"out": load(at, 8.0, at * 2.0)}, at)


class Router:
    """Sends every pod a request each second, answers take so long; `follows`: only to those that are Ready."""

    def __init__(self, fleet: Fleet, answer_seconds: int = 2, *, follows: bool = False) -> None:
        self.fleet, self.answer_seconds, self.follows = fleet, answer_seconds, follows
        self._ends: dict[str, list[int]] = {}
        self._ended: dict[str, float] = {}
        self._at = 0

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self._at += 1
            for pod in self.fleet.pods():
                name = pod["metadata"]["name"]
                ends = self._ends.setdefault(name, [])
                if not self.follows or condition(pod, "Ready") == "True":
                    ends.append(self._at + self.answer_seconds)
                self._ended[name] = self._ended.get(name, 0.0) + sum(end <= self._at for end in ends)
                self._ends[name] = [end for end in ends if end > self._at]
                self.fleet.requests[name] = float(len(self._ends[name]))
                self.fleet.changed_values["engine:ended", name] = self._ended[name]
            await self.fleet.run(1)


def events(fleet: Fleet, reason: str) -> list[str]:
    return [message for _, one, message in fleet.cluster.events if one == reason]


KEEPS = ("False", "RouterKeepsSending")


@pytest.mark.parametrize("flip", ["Label", "Restart"])
async def test_a_group_behind_a_router_that_follows_no_readiness_says_so_and_moves_nothing_more(
    flip: str,
) -> None:
    fleet = Fleet(3, 6, nodes=flip == "Restart", flip=flip)
    router = Router(fleet)
    await router.run(5)
    fleet.traffic = PROMPT_HEAVY
    await router.run(75)
    assert fleet.condition("Balanced") == KEEPS
    assert "router" in events(fleet, "TransferRolledBack")[0]
    moved = len(events(fleet, "TransferStarted"))
    assert all(text.split()[0] in fleet.message("Balanced") for text in events(fleet, "TransferStarted"))
    assert fleet.serving() == {"prefill": 3, "decode": 6}, "all of them are back"
    await router.run(100)
    assert fleet.condition("Balanced") == KEEPS
    assert len(events(fleet, "TransferStarted")) == moved
    assert len(events(fleet, "RouterKeepsSending")) == 1


async def test_it_moves_again_by_itself_when_the_router_was_mended() -> None:
    fleet = Fleet(3, 6)
    router = Router(fleet)
    await router.run(5)
    fleet.traffic = PROMPT_HEAVY
    await router.run(75)
    assert fleet.condition("Balanced") == KEEPS
    router.follows = True
    await router.run(660)
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    assert fleet.serving() == {"prefill": 5, "decode": 4}


async def test_a_group_behind_a_router_that_follows_readiness_moves_while_its_answers_take_minutes() -> None:
    fleet = Fleet(3, 6)
    for role in ("prefill", "decode"):
        fleet.edit(INFERENCE_ROLES, role, lambda spec: spec.update(drain={"timeoutSeconds": 600}))
    router = Router(fleet, answer_seconds=120, follows=True)
    await router.run(5)
    fleet.traffic = PROMPT_HEAVY
    await router.run(200)
    assert fleet.serving() == {"prefill": 5, "decode": 4}
    assert events(fleet, "RouterKeepsSending") == []


async def test_a_replica_that_somebody_takes_away_goes_and_the_group_says_why_its_requests_are_cut() -> None:
    fleet = Fleet(3, 6, mode="Paused")
    router = Router(fleet)
    await router.run(10)
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=5))
    await router.run(1)
    (left,) = [pod["metadata"]["name"] for pod in fleet.pods() if condition(pod, GATE_SERVING) == "False"]
    await router.run(50)
    assert fleet.condition("Balanced") == KEEPS
    assert left in fleet.message("Balanced")
    await router.run(20)
    assert fleet.split() == {"prefill": 3, "decode": 5}
    # What people ask for goes on.
    fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=4))
    await router.run(80)
    assert fleet.split() == {"prefill": 3, "decode": 4}


async def test_a_changed_template_waits_while_the_router_keeps_sending() -> None:
    fleet = Fleet(3, 6, mode="Paused")
    router = Router(fleet)
    await router.run(10)
    new = {"spec": {"containers": [{"name": "engine", "image": "vllm:2"}]}}
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec.update(template=new))
    await router.run(200)

    def images() -> list[str]:
        return sorted(pod["spec"]["containers"][0]["image"] for pod in fleet.pods())

    assert images() == ["vllm:1"] * 8 + ["vllm:2"]
    assert fleet.condition("Balanced") == KEEPS


async def test_a_group_whose_size_follows_the_load_says_so_and_grows_on() -> None:
    fleet = Fleet(3, 6)
    fleet.group()["spec"]["accelerators"]["minimum"] = 4
    fleet.traffic = known(ANSWER_HEAVY)
    router = Router(fleet)
    await router.run(120)
    assert fleet.condition("Balanced") == KEEPS
    assert len(events(fleet, "ScaledDown")) == 1
    fleet.traffic = steady(7.0, 940, 281)
    await router.run(60)
    assert events(fleet, "ScaledUp")
    assert fleet.condition("Balanced") == KEEPS


def test_a_size_that_was_decided_waits_where_a_role_would_have_fewer_replicas_and_else_does_not() -> None:
    spec = InferenceGroup.model_validate(Fleet().group()).spec
    allowed = permit(spec, T0, router_keeps_sending({"out"}))
    before = Split.of({"decode": 6, "prefill": 3})
    for decode, prefill, waits in ((5, 3, True), (5, 5, True), (6, 4, False)):
        plan = SplitPlan(Split.of({"decode": decode, "prefill": prefill}))
        found = within(allowed, plan, before, spec.rebalance.mode)
        assert (found.allocation == before) is waits
        assert (found.obstacle is not None) is waits


async def test_a_group_that_is_deleted_says_that_its_requests_do_not_end() -> None:
    fleet = Fleet(1, 1, mode="Paused")
    router = Router(fleet)
    await router.run(10)
    await fleet.cluster.delete(INFERENCE_GROUPS, GROUP, "team-a")
    await router.run(50)
    assert "does not follow the condition Ready" in fleet.message("Ready")
    await router.run(30)
    assert fleet.pods() == []

"""One replica from one role to another by its labels, step by step. Pure builders; apply.py carries them out.

A transfer is recorded in the group's status before its first step. From then on every step's being done is
read from the pod, so that it goes on wherever an operator left it:

    out of the router -> idle -> labels, one guarded patch -> seen with them -> into the router

Until the labels have changed it can turn back: when the drain times out, a role disappears, or the role that
gives would be left without enough serving replicas. Afterwards it only goes forward. The engine keeps running
throughout, so KV caches that decode replicas still read stay where they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from weft.api import InferenceRole, Transfer, TransferStep
from weft.balancing.drain import idle, timed_out
from weft.balancing.replicas import GATE_ROLLED_BACK, GATE_TRANSFER, Replica, serving_in
from weft.balancing.roster import effective_roles, no_spare
from weft.balancing.state import Finding, PodLoad, Split
from weft.saga.engine import Step

OPEN_MOST = 16
"""As many as the status holds."""

Act = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Acts:
    """What can be done to the replica of a transfer."""

    leave_router: Act
    switch: Act
    enter_router: Act
    return_to_router: Act


def switched(transfer: Transfer, replica: Replica) -> bool:
    """Whether the labels have changed: from here on there is no way back."""
    return replica.role == transfer.to


def reason_to_turn_back(
    transfer: Transfer,
    replica: Replica,
    replicas: Sequence[Replica],
    roles: Mapping[str, InferenceRole],
    now: datetime,
) -> str:
    """Why the transfer has to be rolled back; empty while it goes forward. For people."""
    if switched(transfer, replica):
        return ""
    giver = roles.get(transfer.from_)
    if giver is None or transfer.to not in roles:
        return "one of its roles is gone"
    if replica.pod_deleting or replica.pod_finished:
        return "its pod ended"
    if replica.gate is False:
        timeout = giver.spec.drain.timeout_seconds
        return f"it did not drain within {timeout} s" if timed_out(replica, timeout, now) else ""
    others = [one for one in serving_in(replicas, transfer.from_) if one.name != replica.name]
    least = max(1, giver.spec.min_replicas)
    return (
        ""
        if len(others) >= least
        else f"role {transfer.from_} would have {len(others)} serving replicas left"
    )


def forward(
    transfer: Transfer, replica: Replica, load: PodLoad | None, scrape_seconds: float, acts: Acts
) -> list[Step]:
    """The way to the new role."""
    changed = switched(transfer, replica)
    out = changed or (replica.gate is False and replica.gate_reason == GATE_TRANSFER)
    busy = "metrics scraped after it left the router"
    if load is not None and load.running + load.waiting > 0:
        busy = f"{load.running + load.waiting:.0f} requests to finish"
    return [
        Step("LeaveRouter", out, acts.leave_router),
        Step("Drain", changed or (out and idle(replica, load, scrape_seconds)), wait=busy),
        Step("Switch", changed, acts.switch),
        Step("Verify", changed and replica.containers_ready, wait="its containers to be ready"),
        Step("EnterRouter", changed and replica.gate is True, acts.enter_router),
    ]


def backward(replica: Replica, acts: Acts) -> list[Step]:
    """The way back to the old role."""
    return [Step("ReturnToRouter", replica.gate is True, acts.return_to_router)]


SHOWN: Mapping[str, TransferStep] = {
    "LeaveRouter": TransferStep.DRAINING,
    "Drain": TransferStep.DRAINING,
    "Switch": TransferStep.SWITCHING,
    "Verify": TransferStep.VERIFYING,
    "EnterRouter": TransferStep.VERIFYING,
    "ReturnToRouter": TransferStep.ROLLING_BACK,
}
"""What the status calls each step."""


def choose(
    allocation: Split,
    roles: Mapping[str, InferenceRole],
    kinds: Mapping[str, str],
    replicas: Sequence[Replica],
    open_transfers: Sequence[Transfer],
    loads: Mapping[str, PodLoad],
    cooldown_seconds: int,
    now: datetime,
) -> tuple[tuple[Transfer, ...], Finding | None]:
    """The transfers to record now, towards the allocation.

    At most a quarter of the replicas (at least one) are on their way at a time. A replica that was just rolled
    back is left alone for the cooldown. Of those that can go the least loaded goes: it drains first.
    """
    moving = {transfer.replica: transfer.to for transfer in open_transfers}
    effective = effective_roles(replicas, moving)
    lacking = Counter({name: allocation[name] for name in roles})
    lacking.subtract(Counter(effective[one.name] for one in replicas if one.has_pod and not one.removing))
    started: list[Transfer] = []
    room = min(OPEN_MOST, max(1, len(replicas) // 4)) - len(open_transfers)
    obstacle: Finding | None = None
    for giver in sorted(roles, key=lambda name: (lacking[name], name)):
        while lacking[giver] < 0 and len(started) < room:
            takers = [name for name in roles if lacking[name] > 0 and kinds[name] == kinds[giver]]
            if not takers:
                break
            taker = max(sorted(takers), key=lambda name: lacking[name])
            leaving = {transfer.replica for transfer in (*open_transfers, *started)}
            spare = [one for one in serving_in(replicas, giver) if one.name not in leaving]
            free = [one for one in spare if not _rolled_back_lately(one, cooldown_seconds, now)]
            if len(spare) <= max(1, roles[giver].spec.min_replicas):
                obstacle = no_spare(giver)
                break
            if not free:
                break
            replica = min(free, key=lambda one: (_work(loads.get(one.name)), one.number))
            started.append(
                Transfer(
                    name=f"{replica.name}-to-{taker}",
                    from_=giver,
                    to=taker,
                    replica=replica.name,
                    step=TransferStep.DRAINING,
                    start_time=now,
                )
            )
            lacking[giver] += 1
            lacking[taker] -= 1
    return tuple(started), obstacle


def _rolled_back_lately(replica: Replica, cooldown_seconds: int, now: datetime) -> bool:
    since = replica.gate_changed_at
    if replica.gate_reason != GATE_ROLLED_BACK or since is None:
        return False
    return now - since < timedelta(seconds=max(30, cooldown_seconds))


def _work(load: PodLoad | None) -> float:
    return load.running + load.waiting if load is not None else 0.0

"""One replica from one role to another by its labels, step by step. Pure.

A transfer is recorded in the group's status before its first step. From then on where it stands is read from the
pod, so that it goes on wherever an operator left it:

    labels, one guarded patch -> seen with them

and with `drainFirst`

    out of the router -> idle -> labels, one guarded patch -> seen with them -> into the router

and with `flip: Restart`, on a logical node that keeps its devices

    out of the router -> idle, KV caches read -> pod deleted -> made from the other template -> into the router

and with `flip: HTTP`, where the engine changes its stage when it is asked to

    out of the router -> idle, KV caches read -> recorded -> asked, one call -> tells the new stage -> labels -> into
    the router

Without a drain the router sends it the new stage's requests as soon as it sees the labels, and the engine, which
serves both stages, ends the old ones beside them.

Until the labels have changed it can turn back: when the drain times out, a role disappears, the role that
gives would be left without enough serving replicas, or another decision wants the replica where it is. Afterwards it
only goes forward. But for a restart the engine keeps
running throughout, so KV caches that decode replicas still read stay where they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from weft.api import FlipMethod, RebalanceMode, Transfer, TransferStep
from weft.balancing import removal
from weft.balancing.drain import idle, timed_out
from weft.balancing.engine_calls import EngineRole
from weft.balancing.observe import GroupPicture
from weft.balancing.own_speeds import turn
from weft.balancing.replicas import Replica, cold_start_seconds, serving_in
from weft.balancing.role_switch import Verdict, judge, unwilling, why_not
from weft.balancing.roster import effective_roles, no_spare, work
from weft.balancing.stages import PARTS, parts_of
from weft.balancing.state import Finding, Note, Split
from weft.balancing.steps import (
    CallEngine,
    CheckTemplate,
    DeletePod,
    EnterRouter,
    GateReason,
    LeaveRouter,
    ReturnToRouter,
    Subject,
    Switch,
)

TransferAct = LeaveRouter | CallEngine | Switch | EnterRouter | ReturnToRouter | DeletePod

OPEN_MOST = 16
"""As many as the status holds."""
HANGS_SECONDS = 15.0
"""An engine that is not ready so long after its labels changed."""
LEFT_ALONE_SECONDS = 30
"""A replica whose move was rolled back is not chosen again for so long, or for the group's cooldown where that is
longer."""


@dataclass(frozen=True)
class Carried:
    """What a pass makes of one recorded transfer."""

    transfer: Transfer
    over: bool = False
    """It is finished, rolled back, or its replica is gone: it leaves the status."""
    returned: bool = False
    """It cannot be finished: its replica stays with the role that it was to leave, from now on."""
    step: TransferAct | None = None
    """What to do for it now; None: wait."""
    check: CheckTemplate | None = None
    """What to ask before that."""
    note: Note | None = None


def carry_on(transfer: Transfer, picture: GroupPicture, now: datetime) -> Carried:
    """Where a recorded transfer stands and what its next step is."""
    replica = picture.replica(transfer.replica)
    if replica is not None and _between_pods(transfer, replica, picture):
        # Its new pod is made as any that a logical node lacks: for the role that it goes to.
        return Carried(_at(transfer, TransferStep.SWITCHING))
    if replica is None or not replica.has_pod or replica.removing:
        text = f"{transfer.replica} is gone before it served {transfer.to}"
        return Carried(transfer, over=True, note=Note("TransferEnded", text, warning=True))
    if transfer.step is TransferStep.ROLLING_BACK:
        if replica.gate is True:
            return Carried(transfer, over=True)
        return Carried(transfer, step=ReturnToRouter(replica.name, "takes requests again in its old role"))
    why = reason_to_turn_back(transfer, replica, picture, now)
    if why:
        # Recorded first, carried out by the next pass: a restart in between must not begin the drain anew.
        text = f"{transfer.replica} stays with {transfer.from_} instead of {transfer.to}: {why}"
        back = _at(transfer, TransferStep.ROLLING_BACK)
        return Carried(back, returned=True, note=Note("TransferRolledBack", text, True))
    return _forward(transfer, replica, picture, now)


def _between_pods(transfer: Transfer, replica: Replica, picture: GroupPicture) -> bool:
    """Whether a restart has ended its pod, or is about to have, and its new one is not there yet."""
    if not picture.restarts or not replica.has_node or replica.node_deleting or switched(transfer, replica):
        return False
    if transfer.step is TransferStep.ROLLING_BACK or transfer.to not in picture.roles:
        return False
    return replica.pod_deleting or not replica.has_pod


def _forward(transfer: Transfer, replica: Replica, picture: GroupPicture, now: datetime) -> Carried:
    if not switched(transfer, replica):
        if not picture.drains_first:
            reason = "gets its new role and ends its old requests beside it"
            return Carried(
                _at(transfer, TransferStep.SWITCHING),
                step=Switch(replica.name, reason, transfer.from_, transfer.to),
            )
        draining = _at(transfer, TransferStep.DRAINING)
        if replica.gate is not False or replica.gate_reason != GateReason.TRANSFER:
            reason = "finishes its requests before it changes its role"
            if not picture.restarts:
                return Carried(draining, step=LeaveRouter(replica.name, reason, GateReason.TRANSFER))
            return Carried(
                draining,
                step=LeaveRouter(replica.name, reason, GateReason.TRANSFER, checked_for=transfer.to),
                check=CheckTemplate(transfer.to, replica.name, "before an engine is ended for it"),
            )
        if picture.restarts:
            if not removal.may_end(replica, picture, now):
                return Carried(draining)
            delete = DeletePod(replica.name, "has finished its requests and restarts in its new role")
            return Carried(_at(transfer, TransferStep.SWITCHING), step=delete)
        if picture.calls_engines:
            return _ask(transfer, replica, picture, now)
        load = picture.reading.loads.get(replica.name)
        if not idle(replica, load, picture.windows.scrape_seconds):
            return Carried(draining)
        reason = "has finished its requests and gets its new role"
        switch = Switch(replica.name, reason, transfer.from_, transfer.to)
        return Carried(_at(transfer, TransferStep.SWITCHING), step=switch)
    verifying = _at(transfer, TransferStep.VERIFYING)
    if not replica.containers_ready:
        return Carried(verifying)
    if replica.gate is not True:
        return Carried(verifying, step=EnterRouter(replica.name, "takes requests"))
    seconds = (now - transfer.start_time).total_seconds()
    text = (
        f"{transfer.replica} serves {transfer.to}, {seconds:.0f} s after it was taken from {transfer.from_}"
    )
    return Carried(transfer, over=True, note=Note("TransferFinished", text))


def _ask(transfer: Transfer, replica: Replica, picture: GroupPicture, now: datetime) -> Carried:
    """What to do for a replica whose engine changes its stage when it is asked, and which is out of the router."""
    switching = _at(transfer, TransferStep.SWITCHING)
    if transfer.step is not TransferStep.SWITCHING:
        # Recorded before the engine is asked: from then on only what it tells says which stage it has.
        ready = picture.role_switch is not None and removal.may_end(replica, picture, now)
        return Carried(switching if ready else _at(transfer, TransferStep.DRAINING))
    match _verdict(transfer, replica, picture, now):
        case Verdict.SWITCHED:
            reason = "its engine tells that it serves its new role"
            return Carried(switching, step=Switch(replica.name, reason, transfer.from_, transfer.to))
        case Verdict.CALL:
            stage = picture.roles[transfer.to].spec.stage.label
            reason = "has finished its requests and is asked to change its role"
            return Carried(switching, step=CallEngine(replica.name, reason, stage))
        case Verdict.REPLACE:
            return Carried(switching, step=DeletePod(replica.name, "nobody knows which role its engine has"))
        case _:
            return Carried(switching)


def _verdict(transfer: Transfer, replica: Replica, picture: GroupPicture, now: datetime) -> Verdict:
    settings = picture.role_switch
    if settings is None:
        return Verdict.WAIT
    taker = picture.roles.get(transfer.to)
    giver = picture.roles.get(transfer.from_)
    seconds = removal.drain_seconds(replica, picture) + round(settings.timeout_seconds)
    return judge(
        picture.engine_roles.get(replica.name, EngineRole()),
        giver.spec.stage.label if giver is not None else "",
        taker.spec.stage.label if taker is not None else "",
        settings.timeout_seconds,
        timed_out(replica, seconds, now),
    )


def _at(transfer: Transfer, step: TransferStep) -> Transfer:
    return transfer.with_changes(step=step)


def switched(transfer: Transfer, replica: Replica) -> bool:
    """Whether the labels have changed: from here on there is no way back."""
    return replica.role == transfer.to


def hangs(transfer: Transfer, picture: GroupPicture, now: datetime) -> bool:
    """Whether a replica gets no further in its transfer: other decisions do not wait for it.

    It has changed its role and does not become ready, or the API server refuses the pod that it would get.
    """
    replica = picture.replica(transfer.replica)
    if picture.restarts and Subject("role", transfer.to) in picture.refusals:
        return True
    if replica is None or not switched(transfer, replica) or replica.containers_ready:
        return False
    limit = HANGS_SECONDS + (2 * cold_start_seconds(picture.replicas) if picture.restarts else 0.0)
    since = replica.role_since
    return since is not None and now - since > timedelta(seconds=limit)


def reason_to_turn_back(transfer: Transfer, replica: Replica, picture: GroupPicture, now: datetime) -> str:
    """Why the transfer has to be rolled back; empty while it goes forward. For people."""
    if switched(transfer, replica):
        return ""
    if picture.calls_engines and transfer.step is TransferStep.SWITCHING and replica.gate is False:
        back = _verdict(transfer, replica, picture, now) is Verdict.RETURN
        return why_not(picture.engine_roles[replica.name]) if back else ""
    giver = picture.roles.get(transfer.from_)
    if giver is None or transfer.to not in picture.roles:
        return "one of its roles is gone"
    if replica.pod_deleting or replica.pod_finished:
        return "its pod ended"
    if replica.gate is False:
        if replica.name in picture.sent_late:
            return "requests go on beginning on it although it left the router (condition Balanced)"
        timeout = giver.spec.drain.timeout_seconds
        return f"it did not drain within {timeout} s" if timed_out(replica, timeout, now) else ""
    others = [one for one in serving_in(picture.replicas, transfer.from_) if one.name != replica.name]
    least = _least_serving(transfer.from_, picture)
    return (
        ""
        if len(others) >= least
        else f"role {transfer.from_} would have {len(others)} serving replicas left"
    )


def called_back(
    allocation: Split, picture: GroupPicture, transfers: Iterable[Transfer]
) -> tuple[tuple[Transfer, ...], tuple[Note, ...]]:
    """The transfers, those rolled back that still drain and that the allocation wants no more; what is to be said.

    Else another replica would have to drain to come the opposite way. The last to have left goes back first.
    """
    transfers = tuple(transfers)
    lacking = _lacking(allocation, picture, transfers)
    turned: dict[str, Transfer] = {}
    notes: list[Note] = []
    for one in sorted(transfers, key=lambda each: each.start_time, reverse=True):
        drains = one.step is TransferStep.DRAINING
        if drains and lacking[one.from_] > 0 and lacking[one.to] < 0:
            lacking[one.from_] -= 1
            lacking[one.to] += 1
            turned[one.name] = _at(one, TransferStep.ROLLING_BACK)
            text = f"{one.replica} stays with {one.from_}, which it had not left wholly: {allocation} was decided"
            notes.append(Note("TransferCalledBack", text))
    return tuple(turned.get(one.name, one) for one in transfers), tuple(notes)


def _lacking(allocation: Split, picture: GroupPicture, transfers: Iterable[Transfer]) -> Counter[str]:
    """What each role lacks once these transfers have ended; below zero where it has too many."""
    forward = {one.replica: one.to for one in transfers if one.step is not TransferStep.ROLLING_BACK}
    effective = effective_roles(picture.replicas, forward)
    lacking = Counter({name: allocation[name] for name in picture.roles})
    lacking.subtract(
        Counter(
            effective[one.name]
            for one in picture.replicas
            # One whose devices are taken away has its successor in its own role.
            if one.has_pod and not one.removing and not one.node_draining
        )
    )
    return lacking


def choose(
    allocation: Split, picture: GroupPicture, open_transfers: tuple[Transfer, ...], now: datetime
) -> tuple[tuple[Transfer, ...], Finding | None]:
    """The transfers to record now, towards the allocation, and what keeps others from it.

    Those of a decision move together, as it was priced. Where an engine is ended or asked to change, which may fail, or
    where they drain for an edit, which nobody priced, at most a quarter of the replicas (at least one) are on their way
    at a time. One that was just rolled back is left alone for the cooldown. Of those that can go it is the slowest to
    prefill and the fastest from it (`own_speeds`), and of those alike the least loaded.
    """
    refusal = unwilling(picture)
    if refusal is not None:
        return (), refusal
    roles, kinds, replicas, loads = picture.roles, picture.kinds, picture.replicas, picture.reading.loads
    cooldown_seconds = picture.group.spec.rebalance.cooldown_seconds
    lacking = _lacking(allocation, picture, open_transfers)
    started: list[Transfer] = []
    drains, rebalance = picture.drains_first, picture.group.spec.rebalance
    together = rebalance.flip is FlipMethod.LABEL and (rebalance.mode is RebalanceMode.AUTO or not drains)
    room = (OPEN_MOST if together else min(OPEN_MOST, max(1, len(replicas) // 4))) - len(open_transfers)
    obstacle: Finding | None = None
    for giver in sorted(roles, key=lambda name: (lacking[name], name)):
        while lacking[giver] < 0 and len(started) < room:
            takers = [name for name in roles if lacking[name] > 0 and kinds[name] == kinds[giver]]
            if not takers:
                break
            taker = max(sorted(takers), key=lambda name: lacking[name])
            leaving = {transfer.replica for transfer in (*open_transfers, *started)}
            spare = [one for one in serving_in(replicas, giver) if one.name not in leaving]
            free = [
                one
                for one in spare
                if not one.node_draining and not _rolled_back_lately(one, cooldown_seconds, now)
            ]
            if len(spare) <= _least_serving(giver, picture):
                obstacle = no_spare(giver, replicas)
                break
            if not free:
                break
            ways = roles[giver].spec.stage, roles[taker].spec.stage
            turns = {one.name: turn(one.name, *ways, picture.own_speeds) for one in free}
            replica = min(free, key=lambda one: (turns[one.name], work(loads.get(one.name)), one.number))
            started.append(
                Transfer(
                    name=f"{replica.name}-to-{taker}",
                    from_=giver,
                    to=taker,
                    replica=replica.name,
                    step=TransferStep.DRAINING if drains else TransferStep.SWITCHING,
                    start_time=now,
                )
            )
            lacking[giver] += 1
            lacking[taker] -= 1
    return tuple(started), obstacle


def _least_serving(role: str, picture: GroupPicture) -> int:
    """Replicas of a role that go on serving it: its last one goes only where others serve what it serves."""
    spec = picture.roles[role].spec
    others = {
        other.spec.stage
        for name, other in picture.roles.items()
        if name != role and serving_in(picture.replicas, name)
    }
    covered = PARTS[spec.stage] <= parts_of(others)
    return max(0 if covered else 1, spec.min_replicas)


def _rolled_back_lately(replica: Replica, cooldown_seconds: int, now: datetime) -> bool:
    since = replica.gate_changed_at
    if replica.gate_reason != GateReason.ROLLED_BACK or since is None:
        return False
    return now - since < timedelta(seconds=max(LEFT_ALONE_SECONDS, cooldown_seconds))

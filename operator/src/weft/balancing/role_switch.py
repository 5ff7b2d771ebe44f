"""Whether an engine that is to change its stage by an HTTP call has done so, and what comes next. Pure.

An answer proves nothing: an engine may say that it changed and not have. What counts is the stage that it tells when it
is asked afterwards; labels follow that, and only then.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from weft.balancing.engine_calls import Answer, EngineRole
from weft.balancing.observe import GroupPicture
from weft.balancing.state import Finding

SETTLE_SECONDS = 10.0
"""How long an engine that says it is done may go on telling its old stage."""
LEAVE_ALONE_SECONDS = 300.0
"""After an engine did not change its stage no other of the group is taken from its work for as long."""


class Verdict(enum.Enum):
    """What is to be done about an engine whose switch is recorded."""

    SWITCHED = enum.auto()
    CALL = enum.auto()
    WAIT = enum.auto()
    RETURN = enum.auto()
    """It surely is as it was: back to its old work."""
    REPLACE = enum.auto()
    """Nobody knows how it is: a new pod takes its place."""


def judge(known: EngineRole, giver: str, taker: str, timeout_seconds: float, overdue: bool) -> Verdict:
    """What follows from what is known of an engine.

    `giver`, `taker`: stages, empty where the role is gone. `overdue`: its drain's time and that of the call are over,
    which counts only where this process has not called it.
    """
    call = known.call
    if taker and known.stage == taker:
        return Verdict.SWITCHED
    as_before = giver != "" and known.stage == giver
    if call is None:
        if as_before:
            return Verdict.CALL if taker else Verdict.RETURN
        return Verdict.REPLACE if overdue else Verdict.WAIT
    if call.answer is Answer.PENDING:
        return Verdict.WAIT
    if as_before:
        if call.answer is Answer.REFUSED:
            return Verdict.RETURN
        if call.answer is Answer.DONE and known.seconds > SETTLE_SECONDS:
            return Verdict.RETURN
    return Verdict.REPLACE if known.seconds > timeout_seconds else Verdict.WAIT


def why_not(known: EngineRole) -> str:
    """Why an engine stays with its stage, for people."""
    call = known.call
    if call is None:
        return "one of its roles is gone"
    if call.answer is Answer.DONE:
        return "its engine answered that it changed its stage, and did not"
    return f"its engine refused to change its stage ({call.words})"


def unwilling(picture: GroupPicture) -> Finding | None:
    """Which engine did not change its stage, and what to do; None where none did lately."""
    for replica in picture.replicas:
        known = picture.engine_roles.get(replica.name)
        call = known.call if known is not None else None
        if known is None or call is None or known.seconds > LEAVE_ALONE_SECONDS:
            continue
        if call.answer is Answer.DONE and known.seconds > SETTLE_SECONDS and known.stage != call.stage:
            text = f"the engine of {replica.name} answered that it serves {call.stage} and still serves another stage"
            rest = "compare its version and arguments with docs/engines.md, or set rebalance.flip to Restart"
            return Finding(False, "RoleSwitchIgnored", f"{text}: {rest}")
        if call.answer is Answer.REFUSED:
            text = f"the engine of {replica.name} refused to serve {call.stage} ({call.words})"
            rest = "correct its arguments or the preset's role_switch, or set rebalance.flip to Restart"
            return Finding(False, "RoleSwitchRefused", f"{text}: {rest}")
    return None


def strays(picture: GroupPicture, moving: Iterable[str]) -> list[str]:
    """Replicas whose engine serves another stage than their labels say: a new pod has its role's own arguments."""
    away = set(moving)
    return [
        one.name
        for one in picture.replicas
        if one.name not in away
        and one.has_pod
        and not one.pod_deleting
        and (known := picture.engine_roles.get(one.name)) is not None
        and known.stage not in ("", one.stage)
    ]

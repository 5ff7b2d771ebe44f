"""One engine for everything that takes several steps: binding, releasing, transferring.

A saga is an ordered list of steps. Whether a step is done is derived from what was observed, never from
what the process remembers, so a restart in the middle needs no recovery code: the list is built again from
the objects in etcd and the first step that is not done is carried out. Compensation is the same engine over
the list that leads back (detach, verify, give the claim up), chosen by the state that is stored.

Steps are built by pure functions. An action may run more than once; each one has to be repeatable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step of a saga."""

    name: str
    """Stable and short; shown to users."""
    done: bool
    """Computed from observed state by the function that builds the list."""
    act: Callable[[], Awaitable[None]] | None = None
    """What brings the step about. None: something else does, and the saga waits."""
    wait: str = ""
    """What the step waits for, for people; shown while it is not done."""


@dataclass(frozen=True)
class Progress:
    """How far a saga has come."""

    finished: bool
    at: str = ""
    """The name of the first step that is not done; empty when finished."""
    waiting_for: str = ""


async def advance(steps: Sequence[Step]) -> Progress:
    """Carry out the first step that is not done.

    Returns `finished` when every step is. What the action raises passes through: the caller knows whether
    its saga turns back, waits or repeats.
    """
    for step in steps:
        if step.done:
            continue
        if step.act is not None:
            await step.act()
        return Progress(False, step.name, step.wait)
    return Progress(True)

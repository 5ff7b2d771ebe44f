"""The planner for programs that are not the operator: plain values in, a decision out. docs/embedding.md.

`Balancer(config).step(observation)` decides as the operator does, through the same function (`plan.plan_split`). It
keeps nothing between calls, does no I/O and reads no clock: the same observation gives the same decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from weft.api import FlipMethod, Objectives, RebalanceMode
from weft.balancing.engines import answers_in_time, generated_tokens_per_second, observed_speeds, queues
from weft.balancing.plan import plan_split
from weft.balancing.presets import Windows
from weft.balancing.state import (
    COLD_START_SECONDS,
    Corrections,
    Engine,
    RoleState,
    Split,
    SplitInputs,
    Traffic,
)


@dataclass(frozen=True)
class Config:
    """What does not change from one observation to the next."""

    roles: tuple[RoleState, ...]
    """`spec_replicas` are those that a role starts with where an observation names none."""
    objectives: Objectives
    accelerators: int
    """That all replicas may hold together. Where the fewest replicas of the roles hold more, nothing is changed."""
    minimum_accelerators: int | None = None
    """That all replicas hold at least; with it their number follows the load. None: it stays."""
    cold_start_seconds: float = COLD_START_SECONDS
    """From the decision on a new replica to its first request."""
    scrape_seconds: float = 5.0
    """Of the source that the observations come from."""
    cooldown_seconds: float = 30.0
    """Least time between the end of one move and the next decision."""
    flips_overlap: bool = True
    """A replica that flips takes new work at once and ends the old beside it; else it ends the old first."""


@dataclass(frozen=True)
class Observation:
    """What is known at one instant. Times are seconds of any clock that does not go back."""

    at_seconds: float
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Per role, as last decided; empty before the first decision."""
    traffic: Traffic | None = None
    """None: nothing is known, and nothing moves. Histograms may be missing: lengths then count as equal."""
    engines: tuple[Engine, ...] = ()
    """Those that report; may be empty: speeds are then the profile's, and no queue is known."""
    decided_at_seconds: float | None = None
    """Of the last decision that changed `replicas`."""
    decided_from: Mapping[str, int] = field(default_factory=dict)
    """`replicas` before that decision: within the cooldown the move may go further, but not back. Empty: neither."""
    moved_at_seconds: float | None = None
    """When the last move ended."""
    moving: tuple[tuple[str, str], ...] = ()
    """(giver, taker) of each replica that is on its way."""
    starting: tuple[tuple[str, float], ...] = ()
    """(role, seconds until it serves) of each replica that was decided and does not serve yet; infinite where nothing
    says that it will."""
    scaled_at_seconds: float | None = None
    """Of the last decision that changed the number of replicas."""
    grown_at_seconds: float | None = None
    """Of the last one that made it larger."""
    corrections: Corrections | None = None
    """Speeds over the profiles', where the caller knows better than `engines` tell."""


@dataclass(frozen=True)
class Decision:
    """What is to hold from now on."""

    replicas: Mapping[str, int]
    changed: bool
    """Whether it differs from the observation's."""
    reason: str = ""
    """For people; empty where nothing changed."""
    alternatives: tuple[tuple[Mapping[str, int], str], ...] = ()
    """The next best and what they would cost or miss."""
    obstacle: str = ""
    """Why the replicas cannot follow the load although they should."""


class Balancer:
    """Decides the replicas of one group."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def step(self, observation: Observation) -> Decision:
        """The replicas that are to hold. Never raises for what an observation lacks."""
        plan = plan_split(self._inputs(observation))
        decision = plan.decision
        return Decision(
            replicas={role.name: plan.allocation[role.name] for role in self._config.roles},
            changed=decision is not None,
            reason=decision.reason if decision is not None else "",
            alternatives=tuple(
                (dict(Split.read(one.allocation).counts), one.reason)
                for one in (decision.alternatives if decision is not None else ())
            ),
            obstacle=plan.obstacle.message if plan.obstacle is not None else "",
        )

    def _inputs(self, seen: Observation) -> SplitInputs:
        config = self._config
        speeds = seen.corrections
        if speeds is None:
            windows = Windows(config.scrape_seconds)
            speeds = observed_speeds(config.roles, seen.engines, seen.traffic, windows)
        return SplitInputs(
            mode=RebalanceMode.AUTO,
            flip=FlipMethod.LABEL,
            objectives=config.objectives,
            budget_accelerators=config.accelerators,
            cooldown_seconds=config.cooldown_seconds,
            roles=config.roles,
            now=_moment(seen.at_seconds),
            allocation=Split.of(seen.replicas),
            decided_from=Split.of(seen.decided_from),
            decided_at=None if seen.decided_at_seconds is None else _moment(seen.decided_at_seconds),
            moved_at=None if seen.moved_at_seconds is None else _moment(seen.moved_at_seconds),
            settled=not seen.moving,
            moving=seen.moving,
            traffic=seen.traffic,
            generated_tokens_per_second=generated_tokens_per_second(config.roles, seen.engines),
            flips_overlap=config.flips_overlap,
            queues=queues(config.roles, seen.engines),
            answers_in_time=answers_in_time(config.roles, seen.engines, config.objectives, seen.traffic),
            corrections=speeds,
            minimum_accelerators=config.minimum_accelerators,
            starting=seen.starting,
            cold_start_seconds=config.cold_start_seconds,
            scaled_at=None if seen.scaled_at_seconds is None else _moment(seen.scaled_at_seconds),
            grown_at=None if seen.grown_at_seconds is None else _moment(seen.grown_at_seconds),
        )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

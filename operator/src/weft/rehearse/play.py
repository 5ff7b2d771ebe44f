"""One policy played on one trace, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from weft.balancing.pace import LOOK_SECONDS, MOVING_SECONDS
from weft.balancing.profile import Profile
from weft.rehearse.engine import Speeds
from weft.rehearse.moves import Mover, Ways
from weft.rehearse.scrapes import Scrapes
from weft.rehearse.speeds import speed_factors
from weft.rehearse.trace import Trace
from weft.rehearse.world import ROLES, Objectives, World

ANSWERS_SECONDS = 900.0
"""After the last arrival: as long answers are waited for; what has none by then is missed."""

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Case:
    """What is the same for all policies."""

    trace: Trace
    speeds: Speeds
    planned: Profile
    """What policies are told of the engines' speed; the engines themselves are off it by the errors below."""
    objectives: Objectives
    most_replicas: int
    least_replicas: int = 2
    first: Counts = field(default_factory=dict)
    """Replicas per role at the start; empty: half of the most for each stage."""
    accelerators_per_replica: int = 1
    scrape_seconds: float = 5.0
    cold_start_seconds: float = 60.0
    flip_seconds: float = 2.0
    overlap: bool = False
    seed: int = 1
    stage_error: float = 0.0
    """Largest error of the profile, per stage and for all replicas alike."""
    replica_error: float = 0.0
    """Largest error of a single replica, on top."""

    @property
    def first_counts(self) -> dict[str, int]:
        half = self.most_replicas // 2
        return dict(self.first) or {"prefill": half, "decode": self.most_replicas - half}


@dataclass(frozen=True)
class Target:
    """What a policy wants from now on, and why."""

    counts: Counts
    reason: str
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """What a policy may look at: the samples, and the state of the replicas that the API server shows."""

    now: float
    scrapes: Scrapes
    mover: Mover


class Policy(Protocol):
    """Who decides how many replicas each role has. One object per run."""

    name: str
    interval_seconds: float
    """How often it looks; 0: as often as the operator does; infinite: never, and nothing is scraped for it."""

    def ways(self, case: Case) -> Ways:
        """What it is able to do with replicas."""

    def look(self, view: View) -> Target | None:
        """A new target, or None: as before."""


@dataclass(frozen=True)
class Decided:
    """One decision, as it is in the report."""

    at_seconds: float
    counts: dict[str, int]
    reason: str
    alternatives: tuple[str, ...] = ()


@dataclass
class Run:
    """What a policy did and what its requests got."""

    policy: str
    case: Case
    world: World
    first: dict[str, int]
    decisions: list[Decided]
    sizes: list[tuple[float, dict[str, int], int]]
    """(time, serving replicas per role, replicas held), written when it changed."""
    held_seconds: float
    flips: int
    made: int
    removed: int

    @property
    def accelerator_hours(self) -> float:
        """Held until the last arrival: serving, starting and draining."""
        return self.held_seconds * self.case.accelerators_per_replica / 3600

    def within(self, request: int) -> bool:
        """Whether a request met both objectives."""
        objectives, world = self.case.objectives, self.world
        return world.ttft[request] <= objectives.ttft_seconds and world.itl[request] <= objectives.itl_seconds

    @property
    def attainment(self) -> float:
        """Share of the requests that arrived."""
        return self.world.met / len(self.world.trace)


def new_world(case: Case) -> World:
    """Engines as fast as the case's seed makes them."""
    factors = speed_factors(case.seed, 4 * case.most_replicas, case.stage_error, case.replica_error)
    return World(case.trace, case.speeds, factors, case.objectives)


def play(
    case: Case,
    policy: Policy,
    first: Counts | None = None,
    progress: Callable[[float], None] | None = None,
) -> Run:
    """The whole trace under one policy. `progress` is told the virtual time now and then."""
    world, scrapes = new_world(case), Scrapes(case.scrape_seconds)
    mover = Mover(world, scrapes, policy.ways(case))
    begin = dict(case.first_counts if first is None else first)
    mover.start(begin)
    run = Run(policy.name, case, world, begin, [], [], 0.0, 0, 0, 0)
    end = case.trace.seconds
    view_interval = policy.interval_seconds
    scrape_at = look_at = decide_at = 0.0
    if view_interval == math.inf:
        scrape_at = look_at = end + ANSWERS_SECONDS
        note_sizes(run, 0.0)
    held = math.nan
    while True:
        tick = min(scrape_at, look_at)
        if tick > end and math.isnan(held):
            world.run_until(end)
            held = world.held_seconds()
        if tick > end and not mover.busy:
            tick = end + ANSWERS_SECONDS  # nothing is decided any more
        world.run_until(tick)
        if world.finished or tick >= end + ANSWERS_SECONDS:
            break
        if tick == scrape_at:
            scrapes.add(tick, world.front_row(), world.engine_rows())
            scrape_at = (round(scrape_at / case.scrape_seconds) + 1) * case.scrape_seconds
        if tick < look_at:
            continue
        mover.carry_on()
        if decide_at <= tick <= end:
            decide_at = tick + view_interval
            target = policy.look(View(tick, scrapes, mover))
            if target is not None and dict(target.counts) != mover.target:
                mover.target = dict(target.counts)
                run.decisions.append(Decided(tick, dict(target.counts), target.reason, target.alternatives))
        mover.follow()
        note_sizes(run, tick)
        look_at = tick + (MOVING_SECONDS if mover.busy else LOOK_SECONDS)
        if progress is not None:
            progress(min(tick, end))
    run.held_seconds = world.held_seconds() if math.isnan(held) else held
    run.flips, run.made, run.removed = mover.flips, mover.made, mover.removed
    return run


def note_sizes(run: Run, now: float) -> None:
    """Remember the serving replicas and those held, where they changed."""
    world = run.world
    serving = {role: count for role in ROLES if (count := world.serving(role))}
    held = len(world.replicas)
    if not run.sizes or run.sizes[-1][1:] != (serving, held):
        run.sizes.append((now, serving, held))

"""What a schedule that knows the whole trace would give: the bound that no policy passes.

Dynamic programming over the replicas per role, on the engine that everything else runs on, once in steps of 15 s and
once of 30 s: either finds what the other misses.
For each split the best way to be in it at a step is kept as a whole world (queues, batches, replicas on their way),
and from each the splits that a few moves reach are played on. The best way is the one that meets most within the next
two minutes where nothing is moved in them: what a queue costs shows later than what was met until now. Moves take what
they take, only that the end of a drain is known at once and any number may go on at a time. All hardware is used: fewer
replicas never meet more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from weft.balancing.pace import LOOK_SECONDS, MOVING_SECONDS
from weft.rehearse.moves import Mover, Ways
from weft.rehearse.play import ANSWERS_SECONDS, Case, Counts, Decided, Run, new_world, note_sizes
from weft.rehearse.scrapes import Scrapes
from weft.rehearse.static import best_static, splits
from weft.rehearse.world import ROLES

STEPS_SECONDS = (30.0, 15.0)
AHEAD_SECONDS = 120.0
"""How far a path is played on, with its split as it is, to see what it is worth."""
MOVES_MOST = 3
"""Replicas that change their role in one step; more follow in the next one."""
KEPT = 8
"""States that are gone on from at each step: those worth most."""

Key = tuple[int, ...]
"""Replicas per role, in the order of ROLES."""
State = tuple[Key, bool]
"""And whether anything was moved to come there: who never moved is kept beside who did."""


@dataclass
class Path:
    """One way through the trace up to now."""

    mover: Mover
    run: Run

    def worth(self) -> int:
        """Requests within the objectives by AHEAD_SECONDS from now, if nothing were moved until then."""
        ahead = self.fork(self.mover.target)
        ahead.advance(self.mover.world.now + AHEAD_SECONDS)
        return ahead.mover.world.met

    def fork(self, counts: Counts) -> Path:
        """The same past with other wants from now on."""
        world = self.mover.world.clone()
        mover = replace(self.mover, world=world, target=dict(counts))
        run = replace(self.run, world=world, decisions=self.run.decisions.copy(), sizes=self.run.sizes.copy())
        if dict(counts) != self.mover.target:
            run.decisions.append(Decided(world.now, dict(counts), "known beforehand"))
        return Path(mover, run)

    def advance(self, until: float) -> None:
        world = self.mover.world
        while world.now < until:
            self.mover.carry_on()
            self.mover.follow()
            note_sizes(self.run, world.now)
            pause = MOVING_SECONDS if self.mover.busy else LOOK_SECONDS
            world.run_until(min(until, world.now + pause))


def optimum(case: Case, aggregated: bool, progress: Callable[[float], None]) -> Run:
    """The best schedule found, from the first split that suits it best."""
    runs: list[Run] = []
    for number, step in enumerate(STEPS_SECONDS):

        def part(at: float, done: int = number) -> None:
            progress((done * case.trace.seconds + at) / len(STEPS_SECONDS))

        runs += _searched(case, aggregated, step, part)
    # To move nothing is a schedule too, and the way kept for a split may have left it.
    whole = replace(case, least_replicas=case.most_replicas)
    runs.append(replace(best_static(whole, aggregated, lambda _: None), policy="optimum"))
    return max(runs, key=lambda run: (run.world.met, -run.flips))


def _searched(
    case: Case, aggregated: bool, step_seconds: float, progress: Callable[[float], None]
) -> list[Run]:
    """The best schedules found in steps of so many seconds, by the split that they end with."""
    ways = Ways(
        case.most_replicas,
        overlap=case.overlap,
        flip_seconds=case.flip_seconds,
        confirmed=False,
    )
    paths: dict[State, tuple[int, Path]] = {}
    for counts in splits(case.most_replicas, case.most_replicas, aggregated):
        world = new_world(case)
        mover = Mover(world, Scrapes(case.scrape_seconds), ways)
        mover.start(counts)
        run = Run("optimum", case, world, dict(counts), [], [], 0.0, 0, 0, 0)
        paths[_key(counts), False] = 0, Path(mover, run)
    end, at = case.trace.seconds, 0.0
    allowed = {key for key, _ in paths}
    kept = len(paths)
    while at < end:
        at = min(end, at + step_seconds)
        progress(at)
        following: dict[State, tuple[int, Path]] = {}
        for key, moved in sorted(paths, key=lambda state: (-paths[state][0], state))[:kept]:
            for target in _near(key, allowed):
                path = paths[key, moved][1].fork(_counts(target))
                path.advance(at)
                worth, state = path.worth(), (target, moved or target != key)
                if state not in following or worth > following[state][0]:
                    following[state] = worth, path
        paths, kept = following, KEPT
    for _, path in paths.values():
        path.run.held_seconds = path.mover.world.held_seconds()
        path.run.flips = path.mover.flips
        while not path.mover.world.finished and path.mover.world.now < end + ANSWERS_SECONDS:
            path.advance(path.mover.world.now + step_seconds)
    return [path.run for _, path in paths.values()]


def _key(counts: Counts) -> Key:
    return tuple(counts.get(role, 0) for role in ROLES)


def _counts(key: Key) -> dict[str, int]:
    return {role: count for role, count in zip(ROLES, key, strict=True) if count}


def _near(key: Key, allowed: set[Key]) -> Iterator[Key]:
    """Itself and what at most MOVES_MOST moves reach."""
    for other in sorted(allowed):
        if sum(abs(a - b) for a, b in zip(key, other, strict=True)) <= 2 * MOVES_MOST:
            yield other

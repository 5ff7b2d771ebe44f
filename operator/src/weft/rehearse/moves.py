"""Brings a world's replicas to what a policy wants, as slowly as it is in a cluster.

A flip takes a replica out of the router, waits until it is seen idle, changes its role and puts it back; while it
waits it is called back where the target wants it in its old role again. Where the engine serves both stages at once
(`overlap`), it changes its role first and old work ends beside the new. A replica that is made starts for
`cold_start_seconds`, one that is removed finishes its work; both hold their hardware meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.api import Stage
from weft.balancing.drain import ends_decode_after, seen_idle_after, seen_to_end_after
from weft.balancing.own_speeds import turn
from weft.rehearse.scrapes import RUNNING, WAITING, Scrapes, pod_name
from weft.rehearse.world import AGGREGATES, DECODES, PREFILLS, ROLES, Replica, World

STAGES = {PREFILLS: Stage.PREFILL, DECODES: Stage.DECODE, AGGREGATES: Stage.AGGREGATED}


@dataclass(frozen=True)
class Ways:
    """What moving a replica takes, and who may."""

    most_replicas: int
    """Hardware: as many replicas at any time, starting and draining ones included."""
    flips: bool = True
    """Whether a running replica can change its role. Else one is removed and another one made."""
    overlap: bool = False
    flip_seconds: float = 2.0
    """From the drained engine, or with `overlap` from the decision, to its first request in the new role."""
    cold_start_seconds: float = 60.0
    drain_timeout_seconds: float = 600.0
    kv_hold_seconds: float = 30.0
    """After a prefill replica's last request: until then its KV caches may still be read. It is not removed before."""
    confirmed: bool = True
    """An engine counts as idle when a scrape says so; else at once, as at the end of a process."""


@dataclass
class Mover:
    """Follows `target`: replicas per role."""

    world: World
    scrapes: Scrapes
    ways: Ways
    target: dict[str, int] = field(default_factory=dict)
    own_speeds: Mapping[str, float] = field(default_factory=dict)
    """By pod: how fast it was seen to write answers, where the policy looks at it."""
    moved_at: float | None = None
    """When the last flip ended."""
    flips: int = 0
    made: int = 0
    removed: int = 0

    @property
    def busy(self) -> bool:
        """Something is on its way."""
        return any(one.moving_to or one.leaving or not one.serving for one in self.world.replicas.values())

    @property
    def moving(self) -> tuple[tuple[str, str], ...]:
        """(giver, taker) of each flip under way."""
        return tuple((one.role, one.moving_to) for one in self.world.replicas.values() if one.moving_to)

    def start(self, counts: Mapping[str, int]) -> None:
        """The first replicas, already running."""
        self.target = dict(counts)
        for role in ROLES:
            for _ in range(counts.get(role, 0)):
                self.world.create(role, self.world.now)

    def carry_on(self) -> None:
        """One look at what is under way."""
        world, now = self.world, self.world.now
        for one in list(world.replicas.values()):
            if one.leaving:
                if self._may_go(one):
                    world.remove(one)
                    self.removed += 1
            elif one.moving_to:
                self._carry_on_flip(one)
            elif not one.serving and one.ready_at <= now:
                world.enter(one)

    def _carry_on_flip(self, one: Replica) -> None:
        world, now = self.world, self.world.now
        if one.switched_at == float("inf"):
            if self._idle(one, seen_idle_after(self.scrapes.scrape_seconds)):
                one.switched_at = now + self.ways.flip_seconds
            elif now - one.out_since > self.ways.drain_timeout_seconds:
                self.target[one.role] = self.target.get(one.role, 0) + 1
                self.target[one.moving_to] -= 1
                one.moving_to, one.rolled_back_at = "", now
                world.enter(one)
        elif one.switched_at <= now:
            one.role, one.moving_to, one.switched_at = one.moving_to, "", float("inf")
            one.role_since = now
            self.moved_at = now
            self.flips += 1
            world.enter(one)

    def follow(self) -> None:
        """Begin what the target lacks: flips first, then replicas made, then replicas removed."""
        lacking = self._lacking()
        if self.ways.flips:
            self._call_back(lacking)
            self._flip(lacking)
        room = self.ways.most_replicas - len(self.world.replicas)
        for role in ROLES:
            while lacking[role] > 0 and room > 0:
                self.world.create(role, self.world.now + self.ways.cold_start_seconds)
                self.made += 1
                lacking[role] -= 1
                room -= 1
        surplus = len([one for one in self.world.replicas.values() if not one.leaving]) - sum(
            self.target.values()
        )
        for role in ROLES:
            # Where replicas flip only the total shrinks by removal; else each role by itself.
            while lacking[role] < 0 and (surplus > 0 or not self.ways.flips):
                victim = self._victim(role)
                if victim is None:
                    break
                victim.leaving = True
                if victim.serving:
                    self.world.leave(victim)
                lacking[role] += 1
                surplus -= 1

    def _lacking(self) -> dict[str, int]:
        lacking = {role: self.target.get(role, 0) for role in ROLES}
        for one in self.world.replicas.values():
            if not one.leaving:
                lacking[one.moving_to or one.role] -= 1
        return lacking

    def _call_back(self, lacking: dict[str, int]) -> None:
        """Who still drains for a role that has too many, where its own lacks one. The last to have left goes first."""
        world = self.world
        for one in sorted(world.replicas.values(), key=lambda each: each.out_since, reverse=True):
            drains = one.moving_to and not one.serving and one.switched_at == float("inf")
            if drains and lacking[one.role] > 0 and lacking[one.moving_to] < 0:
                lacking[one.role] -= 1
                lacking[one.moving_to] += 1
                one.moving_to, one.rolled_back_at, self.moved_at = "", world.now, world.now
                world.enter(one)

    def _flip(self, lacking: dict[str, int]) -> None:
        for giver in sorted(ROLES, key=lambda role: (lacking[role], role)):
            while lacking[giver] < 0:
                taker = max(sorted(ROLES), key=lambda role: lacking[role])
                if lacking[taker] <= 0:
                    return
                victim = self._victim(giver, taker)
                if victim is None:
                    break
                victim.moving_to = taker
                if self.ways.overlap:
                    victim.switched_at = self.world.now + self.ways.flip_seconds
                else:
                    self.world.leave(victim)
                lacking[giver] += 1
                lacking[taker] -= 1

    def _victim(self, role: str, taker: str = "") -> Replica | None:
        """Who goes, to another role or altogether, as the operator chooses: a stage never loses the last replica that
        serves it."""
        of_role = [
            one
            for one in self.world.replicas.values()
            if one.role == role and not one.leaving and not one.moving_to
        ]
        starting = [one for one in of_role if not one.serving]
        if starting and not taker:
            return max(starting, key=lambda one: one.number)
        serving = [one for one in of_role if one.serving]
        if not serving or not self._covered_without_one(role):
            return None
        pause = self.world.now - 30.0
        free = [one for one in serving if one.rolled_back_at < pause or not taker]
        ways = (STAGES[role], STAGES[taker]) if taker else None
        turns = {
            one.number: turn(pod_name(one.number), *ways, self.own_speeds) if ways else 0 for one in free
        }
        return min(free, key=lambda one: (turns[one.number], self._work(one), one.number), default=None)

    def _covered_without_one(self, role: str) -> bool:
        serving = {each: self.world.serving(each) for each in ROLES}
        serving[role] -= 1
        for one in self.world.replicas.values():
            # One that flips with overlap still serves, but no more than until its role changes.
            if one.moving_to and one.serving:
                serving[one.role] -= 1
        return all(serving[stage] + serving[AGGREGATES] > 0 for stage in (PREFILLS, DECODES))

    def _work(self, one: Replica) -> float:
        if not self.ways.confirmed:
            return one.engine.running + one.engine.waiting
        samples = self.scrapes.engines.get(one.number)
        return samples.rows[-1][RUNNING] + samples.rows[-1][WAITING] if samples else 0.0

    def _idle(self, one: Replica, seen_after: float) -> bool:
        """By what was scraped so many seconds after it left the router, or later."""
        if not self.ways.confirmed:
            return one.engine.idle
        samples = self.scrapes.engines.get(one.number)
        if samples is None:
            return one.engine.idle
        return samples.times[-1] >= one.out_since + seen_after and self._work(one) == 0

    def _may_go(self, one: Replica) -> bool:
        if one.ready_at > self.world.now:
            return True  # it never served
        if not (self._idle(one, seen_to_end_after()) and one.engine.idle and one.engine.holds_nothing):
            return False
        holds = self.ways.kv_hold_seconds if one.role == PREFILLS else ends_decode_after(self._prompts_wait())
        return not self.ways.confirmed or self.world.now - one.out_since >= holds

    def _prompts_wait(self) -> bool:
        engines, replicas = self.scrapes.engines, self.world.replicas
        return any(
            one.role == PREFILLS and engines[number].rows[-1][WAITING] > 0
            for number, one in replicas.items()
            if number in engines
        )

"""Placement's controller: finds places for the logical nodes that wait, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from weft.api import Fabric
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    DEVICE_QUOTAS,
    FABRICS,
    INFERENCE_GROUPS,
    LOGICAL_NODES,
    NAMESPACES,
    NODES,
    POOLS,
    PRIORITY_CLASSES,
    ResourceType,
)
from weft.binding.adoption import adopt
from weft.binding.asked import Waiting
from weft.binding.assignments import Assignments, Outcome
from weft.binding.closed import LOOK_SECONDS, closed
from weft.binding.domains import Promise, choose_domain, still_kept
from weft.binding.fabrics import Fabrics
from weft.binding.inputs import Inputs
from weft.binding.inventory import Picture
from weft.binding.keys import PlacementKey
from weft.binding.membership import PoolKey
from weft.binding.offers import Reader, Snapshot
from weft.binding.parsed import Same
from weft.binding.plan import Remembered, Unused
from weft.binding.rehearsal import Rehearsal
from weft.binding.search import place_groups
from weft.binding.stock import Holder
from weft.binding.whatif import Answer, FabricForecast, what_if
from weft.cluster import Cluster, Object
from weft.controllers import Now, Watch
from weft.domains import DomainAnswer, DomainQuestion, waiting_groups

RETRY_SECONDS = 1.0
RECORDS_AT_ONCE = 100
"""Outcomes that are recorded before the event loop may turn to something else."""
DEPENDS_ON = (
    LOGICAL_NODES,
    NODES,
    NAMESPACES,
    FABRICS,
    *POOLS,
    DEVICE_QUOTAS,
    DEVICE_ATTACHMENTS,
    PRIORITY_CLASSES,
)
PROMISE_SECONDS = 30.0
"""How long a domain is kept for a group that was told to go there and has not asked for its logical nodes yet."""
ASK_SECONDS = 10.0
"""How long the first pass of a leader waits for the groups that waited for a domain to ask for it again: what was kept
for one of them would be given away before."""
GATHER_SECONDS = 0.2
"""How long changes of what there is are gathered: one bind changes several objects."""


class PlacementController:
    """Records in `Assignments` where each waiting logical node goes, or why it has to wait; writes nothing."""

    def __init__(self, cluster: Cluster, fabrics: Fabrics, assignments: Assignments) -> None:
        self._cluster = cluster
        self._fabrics = fabrics
        self._assignments = assignments
        self._inputs = Inputs()
        self._reader = Reader()
        self._remembered = Remembered()
        self._rehearsal = Rehearsal()
        self._asked = asyncio.Lock()
        self._reader_of_what_if = Reader()
        self._promises: dict[tuple[str, str], tuple[float, Promise]] = {}
        """By namespace and group, with the end by the boot clock."""
        self._gangs: dict[tuple[str, str], tuple[float, Waiting]] = {}
        """The places in the queue of groups without a domain, by namespace and group, with the end by the boot clock of
        those that do not ask again."""
        self._without_domain: dict[tuple[str, str], tuple[object, DomainAnswer]] = {}
        """What groups were told for which there is no domain, with what that stands on."""
        self._placed: tuple[object, ...] = ()
        self._offered: dict[str, Same] = {}
        """The devices of each fabric of which the offers were made."""
        self._asked_by: set[tuple[str, str]] = set()
        """Groups that have asked for a domain."""
        self._begun: float | None = None
        """When the first pass was to be, by the boot clock."""
        self.passes = 0
        """Passes that looked for places."""
        # Who wants a place is asked for at once by the controller of its LogicalNode.
        self.watches: tuple[Watch[Any], ...] = tuple(
            Watch(each, self._if_changed(each), after_seconds=GATHER_SECONDS) for each in DEPENDS_ON
        )

    def _if_changed(self, resource: ResourceType) -> Callable[[Cluster, Object], Iterable[Hashable]]:
        def keys(cluster: Cluster, obj: Object) -> Iterable[Hashable]:
            return (PlacementKey(),) if self._inputs.changed(cluster, resource, obj) else ()

        return keys

    async def reconcile(self, key: PlacementKey, now: Now) -> float | None:
        if not self._fabrics.all_looked_at():
            return RETRY_SECONDS
        pictures = self._fabrics.pictures()
        fabrics = self._cluster.list(FABRICS)
        self._begun = now.boot if self._begun is None else self._begun
        if not self.passes and now.boot < self._begun + ASK_SECONDS:
            waited = set(waiting_groups(self._cluster.list(INFERENCE_GROUPS)))
            if not waited <= self._asked_by:
                return RETRY_SECONDS
        gangs = self._waiting_gangs(now)
        inputs = *self._depends_on(pictures), closed(fabrics, now.wall), gangs
        ends = [end - now.boot for end, _ in self._gangs.values()]
        if any(raw["spec"].get("windows") for raw in fabrics):
            ends.append(LOOK_SECONDS)
        again = min(ends, default=None)
        if inputs == self._placed:
            return again
        snapshot = Snapshot.take(self._cluster, pictures, self._assignments, now.wall, gangs)
        outcomes, unused, victims = await asyncio.to_thread(self._place, snapshot, now.wall)
        self._assignments.left(unused)
        self._assignments.preempt(victims)
        self.passes += 1
        for number, outcome in enumerate(outcomes):
            if number % RECORDS_AT_ONCE == 0:
                await asyncio.sleep(0)
            waiting = outcome.waiting
            raw = self._cluster.get(LOGICAL_NODES, waiting.name, waiting.namespace)
            # What went meanwhile would never be carried out, and withhold its devices for good.
            if raw is not None and raw["metadata"]["uid"] == waiting.uid and not _is_deleting(raw):
                self._assignments.record(outcome)
        self._placed = inputs
        return again

    async def what_if(self, changes: Sequence[tuple[ResourceType, Object]], now: datetime) -> Answer | None:
        """What would be said of logical nodes if these objects were as given; one question at a time, beside the event
        loop. None: not every fabric was looked at yet. Raises ValueError for what cannot be read."""
        async with self._asked:
            if not self._fabrics.all_looked_at():
                return None
            snapshot = self._as_it_is(now)
            reader, remembered = self._reader_of_what_if, self._remembered
            answer = await asyncio.to_thread(what_if, reader, snapshot, changes, remembered, now)
        changed = [Fabric.model_validate(raw) for kind, raw in changes if kind == FABRICS]
        told = [FabricForecast(each.metadata.name, await self._fabrics.lacking(each)) for each in changed]
        return replace(answer, fabrics=tuple(each for each in told if each.lacks))

    async def domain_if_asked(self, question: DomainQuestion, now: datetime) -> DomainAnswer | None:
        """The same for a group that nobody has made yet: it is promised nothing, and gets no place in the queue."""
        async with self._asked:
            if not self._fabrics.all_looked_at():
                return None
            snapshot = self._as_it_is(now)
            reader, remembered = self._reader_of_what_if, self._remembered
            answer, _ = await asyncio.to_thread(
                choose_domain, reader, snapshot, question, (), remembered, now
            )
            return answer

    async def choose_domain(self, question: DomainQuestion, now: Now) -> DomainAnswer:
        """The domain for a group's logical nodes; one question at a time, beside the event loop, so that two groups do
        not count the same devices. Raises ValueError for what cannot be read."""
        if question.settled:
            self._settle(question)
            return DomainAnswer(question.present)
        async with self._asked:
            if not self._fabrics.all_looked_at():
                return DomainAnswer("", "which devices are free is not known yet")
            key, pictures = (question.namespace, question.group), self._fabrics.pictures()
            if not self.passes:
                self._asked_by.add(key)
            gangs, head = self._waiting_gangs(now), self._remembered.head
            fabrics = self._cluster.list(FABRICS)
            stands_on = question, self._depends_on(pictures), closed(fabrics, now.wall), gangs, head
            known, ends = self._without_domain.pop(key, None), now.boot + PROMISE_SECONDS
            if known is not None and known[0] == stands_on:
                self._without_domain[key] = known
                if key in self._gangs:
                    self._gangs[key] = ends, self._gangs[key][1]
                return known[1]
            self._promises = {
                name: one for name, one in self._promises.items() if one[0] > now.boot and name != key
            }
            promises = [promise for _, promise in self._promises.values()]
            snapshot = Snapshot.take(self._cluster, pictures, self._assignments, now.wall, gangs)
            reader, remembered = self._reader_of_what_if, self._remembered
            answer, gang = await asyncio.to_thread(
                choose_domain, reader, snapshot, question, promises, remembered, now.wall
            )
            self._gangs.pop(key, None)
            if gang is not None:
                self._gangs[key] = ends, gang
            if answer.domain:
                self._promises[key] = ends, Promise(question, answer.domain)
            elif not promises:
                self._without_domain[key] = stands_on, answer
            return answer

    def _settle(self, question: DomainQuestion) -> None:
        """Keep no more for a group than it still needs."""
        key = question.namespace, question.group
        self._without_domain.pop(key, None)
        if key in self._promises:
            ends, promise = self._promises.pop(key)
            if (less := promise.still_needed(question)) is not None:
                self._promises[key] = ends, less
        if key in self._gangs:
            ends, before = self._gangs.pop(key)
            if (place := still_kept(before, question)) is not None:
                self._gangs[key] = ends, place
            if place != before:
                self._assignments.look_again()

    def _as_it_is(self, now: datetime) -> Snapshot:
        gangs = tuple(gang for _, gang in self._gangs.values())
        return Snapshot.take(self._cluster, self._fabrics.pictures(), self._assignments, now, gangs)

    def _waiting_gangs(self, now: Now) -> tuple[Waiting, ...]:
        # In one order, whoever asked last: another one would be something that changed.
        self._gangs = {key: self._gangs[key] for key in sorted(self._gangs) if self._gangs[key][0] > now.boot}
        return tuple(gang for _, gang in self._gangs.values())

    def _place(
        self, snapshot: Snapshot, now: datetime
    ) -> tuple[list[Outcome], Mapping[PoolKey, Unused], tuple[Holder, ...]]:
        """What is new to say: who waits for the same reason as before is told nothing, and costs nothing."""
        wishes = self._reader.wishes(snapshot, now)
        devices = {name: Same(picture.inventory.devices) for name, picture in snapshot.pictures.items()}
        known, self._offered = self._offered, devices
        if not wishes.groups.waiting and not wishes.adopting:
            if devices != known:
                # What a big rack offers takes as long to make as a bind: the next one need not wait for it.
                self._reader.stock(snapshot)
            return [], {}, ()
        adopted, stock = adopt(wishes.adopting.values(), snapshot, self._reader.stock(snapshot))
        placement = place_groups(wishes.groups, stock, self._remembered)
        self._remembered = placement.remembered
        told = self._rehearsal.add_plans(placement, stock)
        said = set(map(id, snapshot.outcomes))
        refusals = [refusal for refusal in told if id(refusal) not in said]
        return [*adopted, *placement.assignments, *refusals], placement.unused, placement.victims

    def _depends_on(self, pictures: Mapping[str, Picture]) -> tuple[object, ...]:
        """Equal for two moments between which nothing changed that placement depends on."""
        inventories = frozenset((name, Same(picture.inventory)) for name, picture in pictures.items())
        return self._inputs.generation, self._assignments.generation, inventories


def _is_deleting(raw: Object) -> bool:
    return "deletionTimestamp" in raw["metadata"]

"""Placement's controller: finds places for the logical nodes that wait, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    DEVICE_QUOTAS,
    FABRICS,
    LOGICAL_NODES,
    NAMESPACES,
    NODES,
    POOLS,
    PRIORITY_CLASSES,
    ResourceType,
)
from weft.binding.adoption import adopt
from weft.binding.assignments import Assignments, Outcome
from weft.binding.closed import LOOK_SECONDS, closed
from weft.binding.domains import Promise, choose_domain
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
from weft.binding.whatif import Answer, what_if
from weft.cluster import Cluster, Object
from weft.controllers import Now, Watch
from weft.domains import DomainAnswer, DomainQuestion

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
        self._without_domain: dict[tuple[str, str], tuple[object, DomainAnswer]] = {}
        """What groups were told for which there is no domain, with what that stands on."""
        self._placed: tuple[object, ...] = ()
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
        inputs = *self._depends_on(pictures), closed(fabrics, now.wall)
        again = LOOK_SECONDS if any(raw["spec"].get("windows") for raw in fabrics) else None
        if inputs == self._placed:
            return again
        snapshot = Snapshot.take(self._cluster, pictures, self._assignments, now.wall)
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
            snapshot = Snapshot.take(self._cluster, self._fabrics.pictures(), self._assignments, now)
            reader, remembered = self._reader_of_what_if, self._remembered
            return await asyncio.to_thread(what_if, reader, snapshot, changes, remembered, now)

    async def choose_domain(self, question: DomainQuestion, now: Now) -> DomainAnswer:
        """The domain for a group's logical nodes; one question at a time, beside the event loop, so that two groups do
        not count the same devices. Raises ValueError for what cannot be read."""
        async with self._asked:
            if not self._fabrics.all_looked_at():
                return DomainAnswer("", "which devices are free is not known yet")
            key, pictures = (question.namespace, question.group), self._fabrics.pictures()
            stands_on = question, self._depends_on(pictures), closed(self._cluster.list(FABRICS), now.wall)
            known = self._without_domain.pop(key, None)
            if known is not None and known[0] == stands_on:
                self._without_domain[key] = known
                return known[1]
            others = {name: one for name, one in self._promises.items() if one[0] > now.boot and name != key}
            promises = [promise for _, promise in others.values()]
            snapshot = Snapshot.take(self._cluster, pictures, self._assignments, now.wall)
            reader, remembered = self._reader_of_what_if, self._remembered
            answer = await asyncio.to_thread(
                choose_domain, reader, snapshot, question, promises, remembered, now.wall
            )
            self._promises = others
            if answer.domain:
                ends = now.boot + PROMISE_SECONDS
                self._promises[key] = ends, Promise(question, answer.domain)
            elif not promises:
                self._without_domain[key] = stands_on, answer
            return answer

    def _place(
        self, snapshot: Snapshot, now: datetime
    ) -> tuple[list[Outcome], Mapping[PoolKey, Unused], tuple[Holder, ...]]:
        """What is new to say: who waits for the same reason as before is told nothing, and costs nothing."""
        wishes = self._reader.wishes(snapshot, now)
        if not wishes.groups.waiting and not wishes.adopting:
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

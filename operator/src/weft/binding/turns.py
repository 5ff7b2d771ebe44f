"""Whose turn it is: fair share between namespaces, then PriorityClass, then age. Pure.

The share of a namespace is the greatest of its parts of all accelerators, of all memory and of all storage, divided by
its weight (dominant resource fairness). The namespace with the least goes first, one request at a time: what a request
takes counts at once, what is refused takes nothing.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from heapq import heapify, heappop, heapreplace

from weft.binding.asked import Waiting
from weft.fabric.driver import DeviceKind

Order = tuple[float, str, str]
"""Share, then the age of the first request, then the namespace's name."""


class Turns:
    """Hands out requests, each in its turn; `took` says which of them got what they ask for."""

    def __init__(
        self,
        waiting: Iterable[Waiting],
        used: Mapping[tuple[str, DeviceKind], int],
        totals: Mapping[DeviceKind, int],
        weights: Mapping[str, int],
        head: str = "",
    ) -> None:
        self._totals = totals
        self._weights = weights
        self._used: dict[str, dict[DeviceKind, int]] = {}
        self._shares: dict[str, float] = {}
        for (namespace, kind), units in used.items():
            self._used.setdefault(namespace, {})[kind] = units
        self._queues: dict[str, list[Waiting]] = {}
        """By namespace, the last one first."""
        self.first: list[Waiting] = []
        """The head of the queue, after those of its namespace that have a greater priority and those that it is for."""
        for each in waiting:
            self._queues.setdefault(each.namespace, []).append(each)
        for queue in self._queues.values():
            queue.sort(key=_in_namespace, reverse=True)
        self._head: Waiting | None = None
        for queue in self._queues.values() if head else ():
            first = next((each for each in queue if each.uid == head), None)
            if first is not None:
                self._head = first
                self.first = [each for each in queue if self._is_first(each)]
                queue[:] = [each for each in queue if not self._is_first(each)]
                self.first.sort(key=lambda each: (each is first, *_in_namespace(each)))

    def add(self, request: Waiting) -> None:
        """Another one, whose turn comes after all that had theirs already."""
        if self._is_first(request):
            # Among those of a greater priority than the head, which is the last.
            insort(self.first, request, hi=len(self.first) - 1, key=_in_namespace)
            return
        queue = self._queues.setdefault(request.namespace, [])
        queue.append(request)
        queue.sort(key=_in_namespace, reverse=True)

    def took(self, request: Waiting) -> None:
        """The request got what it asks for."""
        self._shares.pop(request.namespace, None)
        used = self._used.setdefault(request.namespace, {})
        for need in request.shape.needs:
            used[need.kind] = used.get(need.kind, 0) + (need.count or need.size_bytes)

    def share(self, namespace: str) -> float:
        """What the namespace holds, as a part of all there is, by its weight."""
        known = self._shares.get(namespace)
        if known is None:
            known = self._shares[namespace] = self._share(namespace)
        return known

    def _share(self, namespace: str) -> float:
        weight = self._weights.get(namespace, 1)
        return max(
            (
                units / (total * weight)
                for kind, units in self._used.get(namespace, {}).items()
                if (total := self._totals.get(kind, 0))
            ),
            default=0.0,
        )

    def _is_first(self, request: Waiting) -> bool:
        head = self._head
        return head is not None and (
            request is head
            or (request.namespace == head.namespace and request.priority > head.priority)
            or head.is_for(request)
        )

    def order(self, namespaces: Iterable[str]) -> tuple[tuple[str, ...], ...]:
        """Namespaces, those with the least share first, together where their shares are the same: while nobody gets
        anything their requests have their turns in this order, and by age between equals."""
        shares: dict[float, list[str]] = {}
        for each in sorted(namespaces):
            shares.setdefault(self.share(each), []).append(each)
        return tuple(tuple(shares[share]) for share in sorted(shares))

    def __iter__(self) -> Iterator[Waiting]:
        yield from self.first
        heap = [self._order(namespace, queue) for namespace, queue in self._queues.items() if queue]
        heapify(heap)
        while heap:
            namespace = heap[0][2]
            queue = self._queues[namespace]
            yield queue.pop()
            if queue:
                heapreplace(heap, self._order(namespace, queue))
            else:
                heappop(heap)

    def _order(self, namespace: str, queue: list[Waiting]) -> Order:
        return self.share(namespace), queue[-1].created, namespace


def _in_namespace(request: Waiting) -> tuple[object, ...]:
    return -request.priority, request.created, request.name


def place_words(rank: int) -> str:
    """A place in the queue, counted from 0: exact for the first two, then in steps that double.

    Who leaves moves all that are behind. Said exactly, that would be a write for each of them; so it is one for each
    step, about ten for a thousand.
    """
    least = 1 << rank.bit_length() - 1 if rank else 0
    first, last = least + 1, 2 * least if rank else 1
    return str(first) if first == last else f"{first}-{last}"

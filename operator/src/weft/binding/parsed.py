"""Values read from objects, kept while the objects stay the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from weft.cluster import Object

log = logging.getLogger(__name__)

T = TypeVar("T")


class Parsed(Generic[T]):
    """Reads objects of one kind, and those that did not change since the last time not again. For one thread."""

    def __init__(self, read: Callable[[Object], T]) -> None:
        self._read = read
        self._known: dict[int, tuple[Object, T | None]] = {}
        """By identity: cached objects are never changed in place. Holding them keeps their identities."""

    def all(self, objects: Iterable[Object]) -> list[T]:
        """What the objects say that can be read, in their order; what is no longer among them is forgotten."""
        return [value for _, value in self.pairs(objects)]

    def pairs(self, objects: Iterable[Object]) -> list[tuple[Object, T]]:
        """The same with the objects."""
        before = self._known
        self._known = {
            id(raw): before.get(id(raw)) or (raw, read_or_none(self._read, raw)) for raw in objects
        }
        return [(raw, value) for raw, value in self._known.values() if value is not None]


def read_or_none(read: Callable[[Object], T], raw: Object) -> T | None:
    """What an object says; None, and a word in the log, where it cannot be read."""
    try:
        return read(raw)
    except ValueError as error:
        # One object that another version stored must not stop all others.
        log.warning("%s %s cannot be read: %s", raw.get("kind"), raw["metadata"]["name"], error)
        return None


class Same:
    """An object that equals itself alone; holding it keeps its identity from being given to another."""

    def __init__(self, of: object) -> None:
        self._of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._of is other._of

    def __hash__(self) -> int:
        return id(self._of)

"""Properties in the shapes that managers give them: lists, single objects, collections, nothing. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weft.fabric.redfish.mapping import Json, mapping_at, text_of
from weft.fabric.redfish.uris import canonical

Resolve = Callable[[object], str]
"""The path of a link; raises Transient when it must not be followed."""
Note = Callable[[str], None]
"""Takes what is odd about a resource, for people."""
_OF_LINKS = frozenset({"Id", "Name", "Description"})


def ignore(note: str) -> None:
    """A Note for what has been said elsewhere."""


def items_of(value: object, what: str, note: Note) -> Sequence[Any] | None:
    """The entries of a property that should be an array; None when it says nothing (missing or null).

    Taken too: one object or link instead of an array of one, a collection in the place of the array (`Members` or
    `Links.Members`), and objects by name. Anything else is noted and says nothing.
    """
    if value is None:
        return None
    if isinstance(value, list):
        return [entry for entry in value if entry is not None]  # null pads arrays of a fixed size
    if isinstance(value, str) and value:
        return [value]
    if isinstance(value, Mapping):
        for home in (value, mapping_at(value, "Links")):
            if "Members" in home:
                return items_of(home["Members"], what, note)
        if "@odata.id" in value or "Id" in value:
            return [value]
        if all(isinstance(entry, Mapping) for entry in value.values()):
            return list(value.values())
    note(f"{what} is {_described(value)}, not a list")
    return None


def link_of(entry: object) -> object:
    """The link in an entry of an array: of an object, or a plain string."""
    return entry if isinstance(entry, str) else mapping_at(entry).get("@odata.id")


def links_of(body: Json, resolve: Resolve, *keys: str, note: Note = ignore) -> tuple[str, ...] | None:
    """The canonical paths in a property of links; None when it says nothing.

    Raises Transient when one of them must not be followed.
    """
    entries = items_of(mapping_at(body, *keys[:-1]).get(keys[-1]), ".".join(keys), note)
    return None if entries is None else tuple(canonical(resolve(link_of(entry))) for entry in entries)


def is_whole(entry: object) -> bool:
    """Whether an entry of an array is the resource itself, and not a link to it (some links say whose they are)."""
    return isinstance(entry, Mapping) and any(not k.startswith("@") and k not in _OF_LINKS for k in entry)


def members_of(body: Json, note: Note) -> Sequence[Any] | None:
    """The entries of a collection, under `Members` or `Links.Members`; None when it names none."""
    for home in (body, mapping_at(body, "Links")):
        if "Members" in home:
            return items_of(home["Members"], "Members", note)
    return None


def words_of(value: object, what: str, note: Note) -> frozenset[str]:
    """The strings of a property that is an array of them, or one."""
    entries = items_of(value, what, note) or ()
    words = frozenset(entry for entry in entries if isinstance(entry, str))
    if len(words) < len(entries):
        note(f"{what} holds what is no text")
    return words


def number_of(body: Json, key: str, note: Note) -> float | None:
    """A size or count; None when it says nothing or is no number above zero. Digits in quotes are read and noted."""
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, str):
        note(f"{key} is text, not a number")
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float(1 << 62):
        if value != 0:
            note(f"{key} is {_described(value)}")
        return None
    return value


def text_at(body: Json, key: str, note: Note) -> str:
    """A text; empty when it says nothing. A number is taken as its digits, and noted."""
    value = body.get(key)
    if value is None or isinstance(value, str):
        return text_of(value or "")
    note(f"{key} is {_described(value)}, not text")
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _described(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", str: "text"}
    return names.get(type(value)) or f"{value!r:.40}"

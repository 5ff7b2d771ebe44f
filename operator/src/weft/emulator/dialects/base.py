"""What is the same in all dialects, and what each says for itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weft.emulator import redfish
from weft.emulator.inventory import World
from weft.emulator.layout import Layout
from weft.emulator.messages import message, refusal
from weft.emulator.quirks import Quirk, Quirks
from weft.emulator.redfish import Document
from weft.emulator.state import Change, Reason, RefusedError, State
from weft.emulator.writes import Plan, RefusedWriteError, Write

if TYPE_CHECKING:
    from weft.emulator.tree import Tree


@dataclass(frozen=True)
class Collection:
    """A collection of resources."""

    kind: str
    """Of its members: `Zone`."""
    name: str
    members: tuple[str, ...]
    """Their paths."""
    more: Document = field(default_factory=dict)
    """Properties that only this one has."""

    @classmethod
    def of(cls, path: str, kind: str, name: str, ids: Iterable[str], **more: Any) -> Collection:
        """The resources with these ids below `path`."""
        return cls(kind, name, tuple(f"{path}/{member}" for member in ids), more)


@dataclass(frozen=True)
class Route:
    """A request that a client may send to change something."""

    method: str
    pattern: str
    """The path; `{name}` stands for one segment."""
    plan: Callable[[Write, Mapping[str, str], Tree], Plan]
    """What it means now; gets the segments by name. Raises RefusedWriteError."""


def named_in(pattern: str, path: str) -> dict[str, str] | None:
    """The segments of a path by their names in the pattern; None: it is not of this pattern."""
    found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern), path)
    return None if found is None else found.groupdict()


class Dialect:
    """How one kind of manager shows what it has, and how it is told to change it."""

    composes = True
    """Whether devices are in resource blocks of a CompositionService."""
    renames = False
    """Whether clients know resources by other names than are used inside."""

    def __init__(self, world: World, state: State, quirks: Quirks) -> None:
        self.world = world
        self.state = state
        self.quirks = quirks
        self.layout = Layout(world, self.composes)

    def inward(self, text: str) -> str:
        """A path or body as it was sent, with the names that are used inside."""
        return text

    def outward(self, text: str) -> str:
        """A path or body with the names that clients know."""
        return text

    def routes(self) -> tuple[Route, ...]:
        """The requests that change something, other than sessions and tasks."""
        raise NotImplementedError

    def hides(self, parts: list[str]) -> bool:
        """Whether this manager has nothing there; `parts` are the path's segments after /redfish/v1."""
        return parts[0] == "CompositionService" and not self.composes

    def collection(self, path: str, parts: list[str], tree: Tree) -> Collection | None:
        """A collection that only this dialect has, or has in another way."""
        return None

    def find(self, parts: list[str], tree: Tree) -> Document | None:
        """A resource that only this dialect has, or has in another way."""
        return None

    def adjust(self, parts: list[str], document: Document) -> Document:
        """The resource as this manager shows it."""
        one_sided = {Quirk.SYSTEM_ONLY: "ComputerSystems", Quirk.BLOCK_ONLY: "ResourceBlocks"}
        match parts:
            case ["Systems", _]:
                return self._without_links(document, one_sided, Quirk.BLOCK_ONLY)
            case ["CompositionService", "ResourceBlocks", name] if name not in self.layout.own_blocks:
                return self._without_links(document, one_sided, Quirk.SYSTEM_ONLY)
        return document

    def _without_links(self, document: Document, names: Mapping[Quirk, str], quirk: Quirk) -> Document:
        if quirk not in self.quirks or "Links" not in document:
            return document
        gone = (names[quirk], f"{names[quirk]}@odata.count")
        links = {name: value for name, value in document["Links"].items() if name not in gone}
        return document | {"Links": links}

    def is_cacheable(self, path: str) -> bool:
        """Whether the resource changes only with its host or block."""
        return Quirk.CHANGING_ETAGS not in self.quirks

    def change(
        self, host: str, wanted: Iterable[str], explain: Callable[[RefusedError], RefusedWriteError]
    ) -> Change:
        """The acts that give the host these blocks. Raises what `explain` makes of a refusal."""
        try:
            return self.state.plan(host, wanted)
        except RefusedError as refused:
            raise explain(refused) from None


def refused(status: int, key: str, *args: str, hint: str = "") -> RefusedWriteError:
    """A request that makes no sense, whatever the state. `hint`: what to do instead."""
    return RefusedWriteError(refusal(status, message(key, *args, hint=hint)))


def missing(path: str) -> RefusedWriteError:
    """There is no such resource."""
    return refused(404, "ResourceMissingAtURI", path)


def explained(
    error: RefusedError, host: str, pointers: Mapping[str, str], name: str, action: str = ""
) -> RefusedWriteError:
    """A refusal by the state: a message for each block. `pointers`: where the body names it, as JSON pointers;
    `name`: the property, or the parameter of an action, that names it."""
    found = []
    for block in error.blocks:
        pointer = (pointers[block],) if block in pointers else ()
        if error.reason is Reason.IN_USE:
            found.append(message("ResourceInUse", properties=pointer))
        elif action:
            found.append(message("ActionParameterValueNotInList", block, name, action, properties=pointer))
        else:
            found.append(message("PropertyValueNotInList", block, name, properties=pointer))
    status = 409 if error.reason is Reason.IN_USE else 400
    return RefusedWriteError(refusal(status, *found), error.reason, error.blocks, host)


def body_of(write: Write) -> Document:
    """The JSON object that was sent. Raises RefusedWriteError."""
    try:
        data = json.loads(write.body)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise refused(400, "MalformedJSON")
    return data


def only(data: Document, known: Iterable[str], read_only: Iterable[str] = (), where: str = "") -> None:
    """Refuse properties that are not known here, and those that cannot be written. Raises RefusedWriteError."""
    for name in data:
        if name not in known and not name.startswith("@"):
            key = "PropertyNotWritable" if name in read_only else "PropertyUnknown"
            raise refused(400, key, f"{where}{name}")


def object_at(data: Document, name: str) -> Document:
    """A property that has to be an object. Raises RefusedWriteError."""
    value = data.get(name)
    if value is None:
        raise refused(400, "PropertyMissing", name)
    if not isinstance(value, dict):
        raise refused(400, "PropertyValueTypeError", str(value), name)
    return value


def text_at(data: Document, name: str) -> str:
    """A property that has to be text. Raises RefusedWriteError."""
    value = data.get(name)
    if value is None:
        raise refused(400, "PropertyMissing", name)
    if not isinstance(value, str) or not value:
        raise refused(400, "PropertyValueTypeError", str(value), name)
    return value


def number_at(data: Document, name: str) -> int:
    """A property that has to be a whole number. Raises RefusedWriteError."""
    value = data.get(name)
    if value is None:
        raise refused(400, "PropertyMissing", name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise refused(400, "PropertyValueTypeError", str(value), name)
    return value


def link_at(value: object, name: str) -> str:
    """The path in a reference. Raises RefusedWriteError."""
    if not isinstance(value, dict) or not isinstance(value.get("@odata.id"), str):
        raise refused(400, "PropertyValueTypeError", str(value), name)
    return str(value["@odata.id"]).rstrip("/")


def links_at(data: Document, name: str, where: str = "") -> tuple[str, ...]:
    """The paths in a list of references. Raises RefusedWriteError."""
    label = f"{where}{name}"
    if name not in data:
        raise refused(400, "PropertyMissing", label)
    if not isinstance(data[name], list):
        raise refused(400, "PropertyValueTypeError", str(data[name]), label)
    return tuple(link_at(item, label) for item in data[name])


def block_names(uris: Iterable[str], tree: Tree) -> dict[str, str]:
    """The blocks that the URIs name, by URI; what is no block that can be seen stands under its URI as it is."""
    prefix = f"{redfish.BLOCKS}/"
    found = {}
    for uri in uris:
        name = uri.removeprefix(prefix) if uri.startswith(prefix) else ""
        found[uri] = name if name and not tree.is_hidden(name) else uri
    return found

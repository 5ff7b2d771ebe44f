"""Where a Redfish manager keeps things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weft.fabric.errors import AuthFailed, FabricError, NotFound, Unsupported
from weft.fabric.redfish.mapping import Json, mapping_at
from weft.fabric.redfish.reader import read
from weft.fabric.redfish.session import Session
from weft.fabric.redfish.shapes import link_of
from weft.fabric.redfish.uris import SERVICE_ROOT

NO_COMPOSITION = (
    "no devices: the manager has no CompositionService and no resource blocks,"
    " so it shows systems and composes nothing"
)
NO_BLOCKS = "no devices: the manager's CompositionService names no collection of resource blocks"


@dataclass(frozen=True)
class Service:
    """Where the manager keeps things (empty: it has no such thing), and whether it expands collections."""

    blocks: str
    systems: str
    zones: str
    fabrics: str
    tasks: str
    sessions: str
    expand: str
    """Query that inlines the members of a collection; empty: unsupported."""
    expand_deep: str
    """The same, and inlines what is in the members, where two levels are supported."""
    storage: str = ""
    no_devices: str = ""
    """Why there can be no devices, in a sentence."""
    uuid: str = ""
    """The service's own, whatever address it is reached at."""
    lasting: bool = True
    """Whether all of it could be read: else it is to be looked for again."""


def link_at(body: Json, *keys: str) -> Any:
    """The URI of a link property, or None."""
    return link_of(mapping_at(body, *keys[:-1]).get(keys[-1]))


async def discover(session: Session, deadline: float, *, login: int | None = None) -> Service:
    """Find the collections. Raises Unsupported when the manager shows no systems and no resource blocks."""
    root = await _root(session, deadline, login)
    composition, lasting, why = await _composition(session, root, deadline, login)
    blocks = link_at(composition, "ResourceBlocks") or link_at(root, "ResourceBlocks")
    systems = link_at(root, "Systems")
    if not blocks and not systems and lasting:
        raise Unsupported("the manager has no systems and no resource blocks: there is nothing to compose")
    tasks = ""
    if link := link_at(root, "Tasks"):
        try:
            service = (await read(session, link, deadline=deadline, login=login)).body
            tasks = session.local(link_at(service, "Tasks"))
        except (AuthFailed, NotFound, Unsupported):
            tasks = ""  # tasks are a help, not a need
    expand, deep = _expand_queries(root)
    zones, fabrics = link_at(composition, "ResourceZones"), link_at(root, "Fabrics")
    sessions = link_at(root, "Links", "Sessions")
    return Service(
        blocks=session.local(blocks) if blocks else "",
        systems=session.local(systems) if systems else "",
        zones=session.local(zones) if zones else "",
        fabrics=session.local(fabrics) if fabrics else "",
        tasks=tasks,
        sessions=session.local(sessions) if sessions else "",
        expand=expand,
        expand_deep=deep,
        storage=session.local(storage) if (storage := link_at(root, "Storage")) else "",
        no_devices="" if blocks else why or (NO_BLOCKS if composition else NO_COMPOSITION),
        uuid=str(root.get("UUID") or "")[:128],
        lasting=lasting,
    )


async def _root(session: Session, deadline: float, login: int | None) -> Json:
    try:
        return (await read(session, SERVICE_ROOT, deadline=deadline, login=login)).body
    except NotFound:
        return (await read(session, SERVICE_ROOT.rstrip("/"), deadline=deadline, login=login)).body


async def _composition(
    session: Session, root: Json, deadline: float, login: int | None
) -> tuple[Json, bool, str]:
    """The CompositionService, whether this answer will last, and why there is none."""
    link = link_at(root, "CompositionService")
    if not link:
        return {}, True, ""
    try:
        return (await read(session, link, deadline=deadline, login=login)).body, True, ""
    except (NotFound, Unsupported) as error:
        return {}, True, f"no devices: the manager's CompositionService is not there: {error}"
    except AuthFailed:
        raise
    except FabricError as error:
        return {}, False, f"no devices: the manager's CompositionService cannot be read: {error}"


def _expand_queries(root: Json) -> tuple[str, str]:
    feature = mapping_at(root, "ProtocolFeaturesSupported", "ExpandQuery")
    if feature.get("NoLinks") is True:
        symbol = "."
    elif feature.get("ExpandAll") is True:
        symbol = "*"
    else:
        return "", ""
    deepest = feature.get("MaxLevels")
    two = feature.get("Levels") is True and not (isinstance(deepest, int) and deepest < 2)
    return f"$expand={symbol}", f"$expand={symbol}" + ("($levels=2)" if two else "")

"""Reading what a resource block holds, as far as it takes to tell what the device is."""

from __future__ import annotations

from weft.fabric.driver import DeviceKind
from weft.fabric.redfish.mapping import Json, mapping_at
from weft.fabric.redfish.reader import Collections
from weft.fabric.redfish.resources import Block
from weft.fabric.redfish.shapes import Resolve, ignore, is_whole, items_of, links_of, members_of


async def contents(block: Block, collections: Collections, resolve: Resolve) -> tuple[Json, ...]:
    """The resources that a block holds; PCIe devices each with its `functions`. Raises a FabricError."""
    held = await _resources(block.components, collections, resolve)
    if block.kind is DeviceKind.STORAGE:
        return await _drives(held, collections, resolve)
    if block.kind is None:
        return tuple([{**body, "functions": await _functions(body, collections, resolve)} for body in held])
    return tuple(held)


async def _resources(links: tuple[str, ...], collections: Collections, resolve: Resolve) -> list[Json]:
    """The resources at these paths; a collection in the place of a resource stands for its members."""
    found: list[Json] = []
    for link in links:
        body = await collections.read(link)
        entries = members_of(body, ignore)
        if entries is None:
            found.append(body)
            continue
        whole = [mapping_at(entry) for entry in entries if is_whole(entry)]
        found += whole
        if len(whole) < len(entries):
            members = links_of(body, resolve, "Members") or links_of(body, resolve, "Links", "Members") or ()
            found = found[: len(found) - len(whole)] + [await collections.read(m) for m in members]
    return found


async def _drives(held: list[Json], collections: Collections, resolve: Resolve) -> tuple[Json, ...]:
    """The drives of Storage resources; what is none (a drive, a SimpleStorage) stays."""
    found: list[Json] = []
    for body in held:
        entries = items_of(body.get("Drives"), "Drives", ignore)
        if not entries:
            found.append(body)
        elif all(is_whole(entry) for entry in entries):
            found += [mapping_at(entry) for entry in entries]
        else:
            found += await _resources(links_of(body, resolve, "Drives") or (), collections, resolve)
    return tuple(found)


async def _functions(device: Json, collections: Collections, resolve: Resolve) -> list[Json]:
    """The functions of a PCIe device: under `PCIeFunctions`, in earlier schemas under Links."""
    for keys in (("PCIeFunctions",), ("Links", "PCIeFunctions")):
        if links := links_of(device, resolve, *keys):
            return await _resources(links, collections, resolve)
    return []

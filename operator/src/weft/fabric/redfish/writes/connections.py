"""Connections: a connection of a fabric is created for each device, and deleted to take the device away.

Sunfish has the same, behind an aggregator whose copies may be old, that fails although it has done what was asked, and
that closes the connection on a duplicate: so what is created has a name of ours, is looked for before it is created,
and is looked for again when the answer says that it failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from weft.fabric.driver import DeviceKind, Operation, WriteIdiom
from weft.fabric.errors import Conflict, FabricError, InvalidRequest, NotFound, OutcomeUnknown, Transient
from weft.fabric.redfish.carving import number_in
from weft.fabric.redfish.connected import PART_INFO, Connection, connection_of, hosts_of
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.mapping import Json, Reply
from weft.fabric.redfish.owners import prefix
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.reader import Collections, Listing, together
from weft.fabric.redfish.resources import System
from weft.fabric.redfish.uris import name_of_path
from weft.fabric.redfish.writes import Allowed, Evidence, Present, methods_of, parts
from weft.fabric.redfish.writes.call import Call, Meaning
from weft.fabric.redfish.writes.of_endpoints import OfEndpoints

_TYPE = "#Connection.v1_1_0.Connection"
"""Sunfish wants to be told what is created; to others it is an annotation that they may pass over."""


class Connections(OfEndpoints):
    """POST to and DELETE from `Fabrics/{id}/Connections`, one connection for each device."""

    name = WriteIdiom.CONNECTIONS

    def evidence(self, host: System, poller: Poller, allowed: Allowed) -> Evidence | str:
        """A collection of connections in a fabric where the host has an endpoint, and its Allow header."""
        attaching = poller.attaching
        fabrics = {
            attaching.fabric_of.get(uri) for uri, of in attaching.related.host_of.items() if of == host.uri
        }
        collections = [c for fabric, c in sorted(attaching.connected.items()) if fabric in fabrics]
        if not collections:
            return "no fabric in which it has an endpoint has connections"
        refusing = [c for c in collections if "POST" not in (allowed(c) or {"POST"})]
        if refusing:
            return (
                f"the connections of its fabric take {methods_of(allowed, refusing[0])} only (Allow header)"
            )
        if allowed(collections[0]) is None:
            return Evidence("its fabrics have connections, and it does not say how they are made", said=False)
        return Evidence("the connections of its fabrics take POST (Allow header)")

    async def present(self, call: Call, path: str) -> Present:
        """What the connections of the host reach, and what its zones have in fabrics without connections."""
        await self._list(call, lambda connection: path in _hosts(call, connection))
        attaching = call.poller.attaching
        # What another process has carved since the last reading is known by its connection only.
        known = attaching.sources.aliases
        strange = [c for c in attaching.connections.values() if not known.keys() >= set(c.parts)]
        await parts.list_again(call, {target for c in strange for target in c.targets})
        present = await super().present(call, path)
        for connection in attaching.connections.values():
            if path in _hosts(call, connection):
                reached = attaching.reached(connection)
                present.devices += [uri for uri in reached if uri not in present.devices]
        connected = {uri for c in attaching.connections.values() for uri in attaching.reached(c)}
        present.left = [uri for uri in attaching.sources.aliases.values() if uri not in connected]
        return present

    async def elsewhere(self, call: Call, path: str, devices: Sequence[str]) -> dict[str, set[str]]:
        """The hosts whose connections reach each device, or the whole of which it is a part, or parts of it: all
        connections have just been listed."""
        attaching = call.poller.attaching
        endpoint_of = attaching.related.endpoint_of
        ends = {uri: endpoint_of.get(uri, uri) for uri in devices}
        ends = {uri: end for uri, end in ends.items() if attaching.fabric_of.get(end) in attaching.connected}
        found = await super().elsewhere(call, path, [uri for uri in devices if uri not in ends])
        await self._read(call, list(dict.fromkeys(ends.values())))
        await parts.list_again(call, ends.values())
        for uri in ends:
            if (block := call.poller.blocks.get(uri)) is None or block.unused is not None:
                raise InvalidRequest(f"{uri}: the manager has no device there")
            found[uri] = set()
        for connection in call.poller.attaching.connections.values():
            hosts = _hosts(call, connection) or {connection.uri}
            reached = set(attaching.reached(connection))
            for uri, end in ends.items():
                whole = end in reached and not connection.parts
                if uri in reached or whole or (uri == end and end in connection.targets):
                    found[uri] |= hosts
        return found

    async def attach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        for uri in devices:
            self._body(call, path, uri, uri)  # what cannot be is refused before anything is done

        async def one(uri: str) -> Reply:
            reached = await parts.carve(call, uri) if number_in(uri)[1] else uri
            return await self._create(call, *self._body(call, path, uri, reached))

        return await call.in_turn(path, [*devices], one)

    async def detach(self, call: Call, path: str, present: Present, devices: Sequence[str]) -> Operation:
        ours = [c for c in call.poller.attaching.connections.values() if path in _hosts(call, c)]
        reached = {c.uri: set(call.poller.attaching.reached(c)) for c in ours}
        ending = [c for c in ours if reached[c.uri] & set(devices)]
        for connection in ending:
            if others := sorted(reached[connection.uri] - set(devices)):
                rest = ", ".join(name_of_path(uri) for uri in others)
                raise InvalidRequest(f"{connection.uri} also reaches {rest}: one cannot go without the other")

        carved = parts.carved_for(call, devices)
        unknown: list[OutcomeUnknown] = []

        async def one(uri: str) -> Reply:
            try:
                return await self._delete(
                    call, uri, parts.meaning if uri in carved else self._said(call, uri)
                )
            except OutcomeUnknown as error:
                if not carved:
                    raise
                # The part goes, too, if its connection went; a manager does not give up what is connected.
                unknown.append(error)
                return Reply(uri, 0, {})
            except Conflict:
                if not unknown:
                    raise
                return Reply(uri, 0, {})

        operation = await call.in_turn(path, [*(c.uri for c in ending), *carved], one)
        if unknown:
            raise unknown[0]
        return operation

    def _said(self, call: Call, uri: str) -> Meaning:
        return lambda body: _meaning(connection_of(body, uri, call.session.local))

    def _body(self, call: Call, path: str, device: str, reached: str) -> tuple[str, Json]:
        """The collection in which the connection is made, and what is sent there; `reached` is what it reaches."""
        attaching = call.poller.attaching
        target = attaching.related.endpoint_of.get(device, device)
        fabric = attaching.fabric_of.get(target, "")
        collection = attaching.connected.get(fabric)
        if collection is None:
            raise InvalidRequest(f"{name_of_path(device)}: its fabric has no connections")
        of_host = sorted(uri for uri, host in attaching.related.host_of.items() if host == path)
        initiators = [uri for uri in of_host if attaching.fabric_of.get(uri) == fabric]
        if not initiators:
            raise InvalidRequest(f"{name_of_path(device)}: the host has no endpoint in this fabric")
        digest = hashlib.sha256(f"{call.key} {device}".encode()).hexdigest()
        name = f"{prefix(call.session.owner)}{digest[:32]}"
        body: dict[str, object] = {
            "@odata.type": _TYPE,
            "Name": name,
            "Description": f"{name_of_path(device)} for {name_of_path(path)}, by Weft",
            "Links": {
                "InitiatorEndpoints": [{"@odata.id": call.session.spelled(initiators[0])}],
                "TargetEndpoints": [{"@odata.id": call.session.spelled(target)}],
            },
        }
        if device != target:
            info = "MemoryChunkInfo" if call.poller.blocks[device].kind is DeviceKind.MEMORY else "VolumeInfo"
            name_of_part, kind = PART_INFO[info]
            part = {"@odata.id": call.session.spelled(reached)}
            access = {"AccessCapabilities": ["Read", "Write"], name_of_part: part}
            body |= {"ConnectionType": kind, info: [access]}
        if fabric in attaching.marked:
            # A path of our choice makes a repetition a duplicate, also where copies are too old to show the first.
            body |= {"Id": name, "@odata.id": f"{call.session.spelled(collection)}/{name}"}
        return collection, body

    async def _create(self, call: Call, collection: str, body: Json) -> Reply:
        """Make the connection, unless it is there: by an earlier try, or in spite of what the answer says."""
        if found := await self._find(call, collection, body):
            return found
        try:
            return await call.send("POST", collection, body)
        except (Conflict, OutcomeUnknown) as error:
            try:
                found = await self._find(call, collection, body, anew=True)
            except FabricError:
                found = None
            if found is None:
                raise error
            return found

    async def _find(self, call: Call, collection: str, body: Json, *, anew: bool = False) -> Reply | None:
        """The connection that this body makes. Raises Conflict where one of its name reaches something else."""
        known = call.poller.attaching.connections
        if anew:
            before = {c.uri for c in known.values()}
            await self._list(call, lambda connection: connection.uri not in before)
        same = [c for c in known.values() if c.name == body["Name"] and c.uri.startswith(f"{collection}/")]
        # An aggregator's list may be older than what it lists.
        paths = [c.uri for c in same] or (
            [call.session.local(body["@odata.id"])] if "@odata.id" in body else []
        )
        wanted = connection_of(body, "", call.session.local)
        for uri in paths:
            try:
                reply = await call.read(uri)
            except NotFound:
                continue
            found = call.poller.meet_connection(uri, reply.body)
            if _meaning(found) != _meaning(wanted):
                raise Conflict(f"{uri} has the name of what is to be made, and connects something else")
            return reply
        return None

    async def _delete(self, call: Call, uri: str, meaning: Meaning) -> Reply:
        """End a connection or part; one that is gone afterwards has ended, whatever the answer says."""
        gone = Reply(uri, 404, {})
        try:
            was = await call.read(uri)
            return await call.send_if(was, meaning, lambda etag: call.send("DELETE", uri, None, etag=etag))
        except NotFound:
            return gone  # what lists it, or what we read, is an old copy
        except OutcomeUnknown:
            try:
                await call.read(uri)
            except NotFound:
                return gone
            raise

    async def _list(self, call: Call, again: Callable[[Connection], bool]) -> None:
        """List the connections of all fabrics, and read those that are new, and those to be read `again`."""
        problems = Problems()
        reader = Collections(call.session, call.deadline, problems, login=call.login)
        collections = sorted(call.poller.attaching.connected.values())
        members: dict[str, Json | None] = {}
        for collection in collections:
            listing = await reader.listing(collection, call.service.expand)
            if not listing.whole:
                raise Transient(f"not all connections could be listed: {'; '.join(problems.texts)}")
            members |= listing.members
        known = {c.uri: c for c in call.poller.attaching.connections.values()}
        lacking = [
            uri for uri, body in members.items() if body is None and (uri not in known or again(known[uri]))
        ]
        replies = await together([self._read_member(call, uri) for uri in lacking])
        members |= {uri: reply.body for uri, reply in zip(lacking, replies, strict=True) if reply is not None}
        gone = {uri for uri, reply in zip(lacking, replies, strict=True) if reply is None}
        left = {uri: body for uri, body in members.items() if uri not in gone}
        await call.poller.meet_connections(Listing(left, whole=True))

    async def _read_member(self, call: Call, uri: str) -> Reply | None:
        try:
            return await call.read(uri)
        except NotFound:
            return None  # it ended since it was listed, or a copy of the list is old


def _meaning(connection: Connection) -> object:
    return connection.initiators, connection.targets, connection.parts


def _hosts(call: Call, connection: Connection) -> set[str]:
    return hosts_of(connection, call.poller.attaching.related.host_of)

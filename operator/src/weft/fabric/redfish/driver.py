"""The Redfish driver: reads a manager, and changes it in the idiom that it offers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from urllib.parse import quote

from weft.fabric.driver import Capabilities, Connection, Inventory, Operation, OperationPhase
from weft.fabric.errors import Conflict, InvalidRequest, NotFound, Transient, Unsupported
from weft.fabric.redfish.discovery import Service, discover
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.mapping import Json
from weft.fabric.redfish.names import is_name
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.reader import Collections
from weft.fabric.redfish.resources import System
from weft.fabric.redfish.session import Session
from weft.fabric.redfish.tasks import Tasks
from weft.fabric.redfish.transport import Heard
from weft.fabric.redfish.uris import last_segment, member_path
from weft.fabric.redfish.writes import Idiom, Present
from weft.fabric.redfish.writes.call import Call
from weft.fabric.redfish.writes.choice import Choice

INVENTORY_REQUEST_TIMEOUTS = 10
"""One inventory takes at most this many request timeouts; attach and detach take at most one."""
READING_SECONDS = 60.0
"""One reading takes no longer (or two request timeouts), so that what was read is shown; the next one goes on."""

_MAX_KEY = 1024


class RedfishDriver:
    """Driver for a manager with a CompositionService. docs/fabrics.md says what it needs.

    A call that writes stays within one request timeout and one login: it never sends its change later, nor again
    after its session has ended. A leader that was replaced and whose session was revoked gets Transient.
    """

    def __init__(self, connection: Connection, heard: Heard | None = None) -> None:
        self._session = Session(connection, heard)
        self._poller = Poller(self._session, connection.part_bytes)
        self._tasks = Tasks(self._session)
        self._choice = Choice(self._poller, self._session.allowed)
        self._notes: dict[str, None] = {}
        self._service: Service | None = None
        self._discovery = asyncio.Lock()
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def capabilities(self) -> Capabilities:
        """What the manager promises, by its service root and by what the last reading showed of its systems."""
        service = await self._services(self._deadline())
        return Capabilities(
            asynchronous_tasks=bool(service.tasks),
            revoke_sessions=bool(service.sessions)
            and not self._session.anonymous
            and not self._session.basic,
            writes=self._choice.writes(self._hosts(), self._no_devices(service)),
            notes=tuple(self._notes),
        )

    async def inventory(self, first: frozenset[str] = frozenset()) -> Inventory:
        """Read everything, or as much as fits into one reading. Raises only when nothing could be read."""
        longest = max(READING_SECONDS, 2 * self._session.timeout_seconds)
        now = asyncio.get_running_loop().time()
        deadline = min(self._deadline(INVENTORY_REQUEST_TIMEOUTS), now + longest)
        service = await self._services(deadline)
        try:
            reading = await self._poller.read(service, deadline, first)
        except (NotFound, Unsupported):
            self._service = None  # another version of the manager may keep its collections elsewhere
            raise
        self._choice.next_reading()
        closed = {s.host.id: self._choice.closed(s, reading.no_devices) for s in self._hosts()}
        blocks = self._poller.blocks
        return replace(
            reading,
            hosts=tuple(replace(h, closed=closed.get(h.id, "")) for h in reading.hosts),
            other_owners={blocks[uri].id: owner for uri, owner in self._others().items()},
        )

    def _others(self) -> dict[str, str]:
        """The owners of devices that are not ours to change, by URI."""
        return {uri: owner for uri, owner in self._poller.owners().items() if owner != self._session.owner}

    def _refuse_others(self, devices: Mapping[str, str]) -> None:
        """Raise Conflict if one of these devices, by URI, carries another owner's mark, wherever it is attached."""
        others = self._others()
        for uri, device in devices.items():
            if owner := others.get(uri):
                raise Conflict(f"{device} carries the mark of another owner, {owner}")

    def _no_devices(self, service: Service) -> str:
        return "" if self._poller.attaching.fabric_of else service.no_devices

    def _hosts(self) -> list[System]:
        return [s for s in self._poller.systems.values() if s.unused is None]

    async def attached(self, host: str) -> frozenset[str]:
        """The devices at the host: one request, once the collections are known and systems list their blocks."""
        deadline = self._deadline()
        service = await self._services(deadline)
        login = await self._session.log_in(deadline)
        await self._first_look(service, deadline, login)
        path = self._system_path(service, host)
        side = self._choice.side(path)
        present = await side.present(self._call("", service, deadline, login), path)
        blocks = self._poller.blocks
        return frozenset(blocks[uri].id for uri in present.devices if self._poller.is_device(uri))

    async def attach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        """Attach the devices to the host. Those already there are success; one elsewhere is `Conflict`."""
        async with self._turn(operation, host) as (call, path):
            wanted = {self._block_path(call.service, d): d for d in sorted(devices)}
            looked, ahead = await asyncio.gather(
                self._look(call, path), self._elsewhere_ahead(call, path, [*wanted]), return_exceptions=True
            )
            if isinstance(looked, BaseException):
                raise looked
            idiom, present = looked
            self._refuse_others(wanted)
            absent = [uri for uri in wanted if uri not in present.devices]
            if absent and isinstance(ahead, BaseException):
                raise ahead
            owners = ahead if isinstance(ahead, dict) else {}
            if left := [uri for uri in absent if uri not in owners]:
                owners |= await idiom.elsewhere(call, path, left)
            for uri, systems in owners.items():
                if others := ", ".join(sorted(last_segment(s) for s in systems - {path})):
                    raise Conflict(f"{wanted[uri]} is attached to {others}, not to {host}")
            if absent := [uri for uri in absent if path not in owners[uri]]:
                for uri in absent:
                    if (block := self._poller.blocks.get(uri)) is not None and block.reserved:
                        raise Conflict(f"{wanted[uri]} is reserved by another client of the manager")
                self._poller.asked |= dict.fromkeys(absent, path)
                with self._refusals(idiom, path):
                    return await idiom.attach(call, path, present, absent)
            return Operation("", OperationPhase.SUCCEEDED, "attached already")

    async def detach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        """Detach the devices from the host. Those not there are success."""
        async with self._turn(operation, host) as (call, path):
            unwanted = {self._block_path(call.service, d): d for d in sorted(devices)}
            idiom, present = await self._look(call, path, also_refused=True)
            if there := [uri for uri in unwanted if uri in present.devices or uri in present.left]:
                self._refuse_others({uri: unwanted[uri] for uri in there})
                with self._refusals(idiom, path):
                    return await idiom.detach(call, path, present, there)
            return Operation("", OperationPhase.SUCCEEDED, "detached already")

    async def _look(self, call: Call, path: str, *, also_refused: bool = False) -> tuple[Idiom, Present]:
        """What the host has, and how it is to be changed. Raises Unsupported where nothing speaks for any way."""
        if path not in self._poller.systems:
            await call.read_system(path)
        looked: tuple[Idiom, Present] | None = None
        while True:
            host = self._poller.systems.get(path)
            if host is None:
                raise NotFound(f"{path}: what was read a moment ago of this host is no host")
            ways = self._choice.ways(host, also_refused=also_refused)
            if not ways:
                raise Unsupported(self._choice.closed(host, self._no_devices(call.service)))
            idiom = ways[0][0]
            if looked is not None and looked[0] is idiom:
                return looked
            # Reading may show that something else is offered now.
            looked = idiom, await idiom.present(call, path)

    async def _elsewhere_ahead(self, call: Call, path: str, devices: list[str]) -> dict[str, set[str]]:
        """Where blocks are, read beside the host: a round trip less. Nothing where that depends on what it says."""
        host = self._poller.systems.get(path)
        if host is None or host.compute or set(devices) & set(host.blocks or ()):
            return {}
        ways = self._choice.ways(host)
        if not ways or ways[0][0].of_endpoints:
            return {}
        return await ways[0][0].elsewhere(call, path, devices)

    @contextlib.contextmanager
    def _refusals(self, idiom: Idiom, path: str) -> Iterator[None]:
        """Remember that the manager cannot do what was asked for: a later call goes another way, or none."""
        try:
            yield
        except Unsupported as error:
            self._choice.refused(idiom.name, path, str(error))
            raise

    async def operation(self, id: str) -> Operation:
        """Where the manager's task stands. Raises NotFound when the manager has forgotten it."""
        if not id:
            raise NotFound("this operation ended within its request; there is no task")
        return await self._tasks.look(id, self._deadline())

    async def find_operation(self, key: str) -> Operation | None:
        """The task whose request or name carries the key, or None. Raises Unsupported."""
        deadline = self._deadline(INVENTORY_REQUEST_TIMEOUTS)
        return await self._tasks.find(await self._services(deadline), _key(key), deadline)

    async def revoke_other_sessions(self) -> int:
        """End the other sessions of our user that have our Context (or, like ours, none); how many ended."""
        deadline = self._deadline(INVENTORY_REQUEST_TIMEOUTS)
        service = await self._services(deadline)
        if self._session.anonymous or not service.sessions:
            raise Unsupported("the manager has no sessions of ours that could be ended")
        problems = Problems()
        login = await self._session.log_in(deadline)
        if self._session.basic:
            raise Unsupported("the manager has no session login: there are no sessions to end")
        reader = Collections(self._session, deadline, problems)
        sessions = dict(await reader.members(service.sessions, service.expand))
        own = sessions.pop(self._session.uri, {})
        if not own.get("UserName"):
            raise Unsupported("the manager does not show our own session: others of ours cannot be told")
        ended = 0
        for uri in [uri for uri, other in sessions.items() if _is_like(other, own)]:
            with contextlib.suppress(NotFound):  # it ended by itself
                await self._session.write("DELETE", uri, None, headers={}, deadline=deadline, login=login)
                ended += 1
        if not problems.complete:
            raise Transient(f"not all sessions could be read: {'; '.join(problems.texts)}")
        return ended

    async def close(self) -> None:
        """Log out and end the connections."""
        await self._session.close()

    def _deadline(self, request_timeouts: int = 1) -> float:
        return asyncio.get_running_loop().time() + request_timeouts * self._session.timeout_seconds

    async def _services(self, deadline: float, *, login: int | None = None) -> Service:
        if self._service is None:
            async with self._discovery:
                if self._service is None:
                    service = await discover(self._session, deadline, login=login)
                    if not service.lasting:
                        return service
                    self._service = service
        return self._service

    async def _first_look(self, service: Service, deadline: float, login: int) -> None:
        async with self._discovery:
            await self._poller.look(service, deadline, login)

    @contextlib.asynccontextmanager
    async def _turn(self, operation: str, host: str) -> AsyncIterator[tuple[Call, str]]:
        """One change to a host at a time: each writes the whole list that it read before."""
        deadline = self._deadline()
        login = await self._session.log_in(deadline)
        service = await self._services(deadline, login=login)
        await self._first_look(service, deadline, login)
        path = self._system_path(service, host)
        lock = self._writing[path]
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            raise Transient(f"{host}: another change to this host takes all the time of this call") from None
        try:
            await self._tasks.await_turn(service, path, deadline, login)
            yield self._call(operation, service, deadline, login), path
        finally:
            lock.release()

    def _call(self, operation: str, service: Service, deadline: float, login: int) -> Call:
        key = _key(operation) if operation else ""
        return Call(self._session, self._tasks, self._poller, service, deadline, login, key, self._notes)

    def _system_path(self, service: Service, host: str) -> str:
        if not service.systems:
            raise Unsupported("the manager has no systems")
        if not is_name(host):
            raise InvalidRequest(f"{host!r} cannot be a host's id")
        return self._poller.system_named(host) or self._expected(service.systems, host)

    def _block_path(self, service: Service, device: str) -> str:
        if reason := self._no_devices(service):
            raise Unsupported(reason)
        if not is_name(device):
            raise InvalidRequest(f"{device!r} cannot be a device's id")
        if known := self._poller.block_named(device):
            return known
        if not service.blocks:
            raise NotFound(f"the manager shows no endpoint of {device}")
        return self._expected(service.blocks, device)

    def _expected(self, collection: str, name: str) -> str:
        try:
            return self._session.local(member_path(collection, name))
        except Transient:
            raise InvalidRequest(f"{name!r} cannot be a member of {collection}") from None


def _key(operation: str) -> str:
    """The key as a header can hold it: it may contain names that the manager chose."""
    if not operation.isprintable():
        raise InvalidRequest(f"{operation!r:.80} cannot be an operation's key")
    key = quote(operation, safe="!#$&'()*+,/:;=?@[]^`{|}~")
    if not 0 < len(key) <= _MAX_KEY:
        raise InvalidRequest(f"{operation!r:.80} cannot be an operation's key")
    return key


def _is_like(other: Json, own: Json) -> bool:
    same = all(other.get(name) == own.get(name) for name in ("UserName", "Context"))
    return same and other.get("SessionType") in (None, "Redfish")

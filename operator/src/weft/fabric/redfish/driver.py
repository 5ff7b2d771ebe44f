"""The Redfish driver: resource blocks into existing computer systems, by PATCH of `Links.ResourceBlocks`."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from urllib.parse import quote

from weft.fabric.driver import Capabilities, Connection, Inventory, Operation, OperationPhase
from weft.fabric.errors import Conflict, InvalidRequest, NotFound, Transient, Unsupported
from weft.fabric.redfish.discovery import Service, discover
from weft.fabric.redfish.inventory import Problems
from weft.fabric.redfish.mapping import Json, Reply
from weft.fabric.redfish.names import is_name, name_of_uri
from weft.fabric.redfish.polling import Poller
from weft.fabric.redfish.reader import Collections, read, together
from weft.fabric.redfish.resources import block_of
from weft.fabric.redfish.session import Session
from weft.fabric.redfish.shapes import links_of
from weft.fabric.redfish.tasks import OPERATION_HEADER, Tasks
from weft.fabric.redfish.transport import Heard
from weft.fabric.redfish.uris import last_segment, member_path

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
        self._poller = Poller(self._session)
        self._tasks = Tasks(self._session)
        self._service: Service | None = None
        self._discovery = asyncio.Lock()
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def capabilities(self) -> Capabilities:
        """What the manager's service root promises."""
        service = await self._services(self._deadline())
        return Capabilities(
            asynchronous_tasks=bool(service.tasks),
            revoke_sessions=bool(service.sessions)
            and not self._session.anonymous
            and not self._session.basic,
        )

    async def inventory(self, first: frozenset[str] = frozenset()) -> Inventory:
        """Read everything, or as much as fits into one reading. Raises only when nothing could be read."""
        longest = max(READING_SECONDS, 2 * self._session.timeout_seconds)
        now = asyncio.get_running_loop().time()
        deadline = min(self._deadline(INVENTORY_REQUEST_TIMEOUTS), now + longest)
        service = await self._services(deadline)
        try:
            return await self._poller.read(service, deadline, first)
        except (NotFound, Unsupported):
            self._service = None  # another version of the manager may keep its collections elsewhere
            raise

    async def attached(self, host: str) -> frozenset[str]:
        """The devices in the system's `Links.ResourceBlocks`: one request, once the collections are known."""
        deadline = self._deadline()
        service = await self._services(deadline)
        system = await read(self._session, self._system_path(service, host), deadline=deadline)
        uris = self._listed(system)
        for uri in uris:
            if uri not in self._poller.blocks:
                self._poller.meet(uri, (await read(self._session, uri, deadline=deadline)).body)
        return frozenset(self._poller.blocks[uri].id for uri in uris if self._poller.is_device(uri))

    async def attach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        """Attach the devices to the host. Those already there are success; one elsewhere is `Conflict`."""
        deadline = self._deadline()
        async with self._turn(host, deadline) as (service, path, login):
            wanted = {d: self._block_path(service, d) for d in sorted(devices)}
            system = await read(self._session, path, deadline=deadline, login=login)
            listed = self._listed(system)
            absent = {d: uri for d, uri in wanted.items() if uri not in listed}
            owners = await together(
                [self._owners(d, uri, path, deadline, login) for d, uri in absent.items()]
            )
            for device, systems in zip(absent, owners, strict=True):
                if elsewhere := ", ".join(sorted(last_segment(s) for s in systems - {path})):
                    raise Conflict(f"{device} is attached to {elsewhere}, not to {host}")
            if all(path in systems for systems in owners):
                return Operation("", OperationPhase.SUCCEEDED, "attached already")
            return await self._change(operation, system, path, [*listed, *absent.values()], deadline, login)

    async def detach(self, operation: str, host: str, devices: frozenset[str]) -> Operation:
        """Detach the devices from the host. Those not there are success."""
        deadline = self._deadline()
        async with self._turn(host, deadline) as (service, path, login):
            unwanted = {self._block_path(service, d) for d in devices}
            system = await read(self._session, path, deadline=deadline, login=login)
            listed = self._listed(system)
            if unwanted.isdisjoint(listed):
                return Operation("", OperationPhase.SUCCEEDED, "detached already")
            rest = [uri for uri in listed if uri not in unwanted]
            return await self._change(operation, system, path, rest, deadline, login)

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

    @contextlib.asynccontextmanager
    async def _turn(self, host: str, deadline: float) -> AsyncIterator[tuple[Service, str, int]]:
        """One change to a host at a time: each writes the whole list that it read before."""
        login = await self._session.log_in(deadline)
        service = await self._services(deadline, login=login)
        path = self._system_path(service, host)
        lock = self._writing[path]
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            raise Transient(f"{host}: another change to this host takes all the time of this call") from None
        try:
            await self._tasks.await_turn(service, path, deadline, login)
            yield service, path, login
        finally:
            lock.release()

    def _system_path(self, service: Service, host: str) -> str:
        if not service.systems:
            raise Unsupported("the manager has no systems")
        if not is_name(host):
            raise InvalidRequest(f"{host!r} cannot be a host's id")
        known = (uri for uri, s in self._poller.systems.items() if s.host.id == host)
        return next(known, "") or self._expected(service.systems, host)

    def _block_path(self, service: Service, device: str) -> str:
        if not service.blocks:
            raise Unsupported(service.no_devices)
        if not is_name(device):
            raise InvalidRequest(f"{device!r} cannot be a device's id")
        known = (uri for uri, b in self._poller.blocks.items() if b.id == device)
        return next(known, "") or self._expected(service.blocks, device)

    def _expected(self, collection: str, name: str) -> str:
        try:
            return self._session.local(member_path(collection, name))
        except Transient:
            raise InvalidRequest(f"{name!r} cannot be a member of {collection}") from None

    def _listed(self, system: Reply) -> list[str]:
        links = links_of(system.body, self._session.local, "Links", "ResourceBlocks") or ()
        return list(dict.fromkeys(links))

    async def _owners(self, device: str, uri: str, path: str, deadline: float, login: int) -> set[str]:
        """The systems that have a device: as its block says, and others than `path` that say so themselves.

        Managers that keep one side only, or that permit what should be refused, must not give it to two hosts. Only
        systems that the last reading shows with the device are asked.
        """
        body = (await read(self._session, uri, deadline=deadline, login=login)).body
        block = block_of(body, uri, self._session.local)
        if device not in (block.id, name_of_uri(uri)) or block.unused is not None:
            raise InvalidRequest(f"{uri}: the manager does not have {device} there as a device")
        shown = [s.uri for s in self._poller.systems.values() if s.uri != path and uri in (s.blocks or ())]
        systems = await together([read(self._session, s, deadline=deadline, login=login) for s in shown])
        still = {s for s, reply in zip(shown, systems, strict=True) if uri in self._listed(reply)}
        return set(block.systems or ()) | still

    async def _change(
        self, operation: str, system: Reply, path: str, blocks: Sequence[str], deadline: float, login: int
    ) -> Operation:
        """Write the list of blocks, on condition that the system is still as it was read."""
        headers = {OPERATION_HEADER: _key(operation)}
        if system.etag:
            headers["If-Match"] = system.etag
        body = {"Links": {"ResourceBlocks": [{"@odata.id": self._session.spelled(uri)} for uri in blocks]}}
        reply = await self._session.write(
            "PATCH", path, body, headers=headers, deadline=deadline, login=login
        )
        if reply.status == 202:
            return self._tasks.accepted(path, reply)
        return Operation("", OperationPhase.SUCCEEDED, "the manager says that it is done")


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

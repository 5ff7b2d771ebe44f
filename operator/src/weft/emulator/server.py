"""The HTTP side: routes, credentials, headers, and the control endpoints."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from weft.emulator import metadata, redfish
from weft.emulator.changes import Changes, fault_reply, utc_now
from weft.emulator.dialects.base import Dialect, Route, named_in
from weft.emulator.faults import Fault, FaultKind, Faults, Target
from weft.emulator.journal import Journal
from weft.emulator.messages import Reply, message, refusal
from weft.emulator.sessions import Sessions, document
from weft.emulator.tasks import Tasks
from weft.emulator.tree import BadQueryError, Expand, Page, Tree, encode
from weft.emulator.writes import Plan, Write

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_METADATA = f"{redfish.ROOT}/$metadata"
_OPEN = frozenset({"/redfish", redfish.ROOT, f"{redfish.ROOT}/odata", _METADATA})
"""Paths that the Redfish specification serves without credentials."""
_FIXED = (
    ("POST", redfish.SESSIONS),
    ("DELETE", f"{redfish.SESSIONS}/{{id}}"),
    ("DELETE", f"{redfish.TASKS}/{{id}}"),
)
"""What can be sent in every dialect."""
_MEMBERS = "/Members"
"""A POST to this property of a collection is one to the collection."""
_MAX_BODY_BYTES = 4 * 1024 * 1024
_FAULT_LIST = TypeAdapter(list[Fault])
SESSION = web.RequestKey("session", str)
USER = web.RequestKey("user", str)
REQUEST_ID = web.RequestKey("request_id", str)


def to_response(request: web.Request, reply: Reply) -> web.Response:
    """An answer as HTTP; a dropped one closes the connection instead."""
    if reply.drop and request.transport is not None:
        request.transport.abort()
    body = reply.body if isinstance(reply.body, bytes) else b"" if reply.body is None else encode(reply.body)
    headers = ({"Content-Type": "application/json"} if body else {}) | reply.headers
    return web.Response(status=reply.status, body=body, headers=headers)


class Server:
    """Routes of the emulator."""

    def __init__(
        self,
        dialect: Dialect,
        tree: Tree,
        changes: Changes,
        tasks: Tasks,
        sessions: Sessions,
        faults: Faults,
        journal: Journal,
        page_size: int | None,
    ) -> None:
        self._dialect = dialect
        self._routes = dialect.routes()
        self._tree = tree
        self._changes = changes
        self._tasks = tasks
        self._sessions = sessions
        self._faults = faults
        self._journal = journal
        self._page_size = page_size
        self._requests = 0
        self._by_method: Counter[str] = Counter()
        self._by_status: Counter[str] = Counter()

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._around], client_max_size=_MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/emulator/stats", self._stats),
                web.get("/emulator/faults", self._show_faults),
                web.post("/emulator/faults", self._add_faults),
                web.delete("/emulator/faults", self._clear_faults),
                web.post(redfish.SESSIONS, self._login),
                web.post(redfish.SESSIONS + _MEMBERS, self._login),
                web.delete(redfish.SESSIONS + "/{id}", self._logout),
                web.get(redfish.MONITORS + "/{id}", self._monitor),
                web.delete(redfish.TASKS + "/{id}", self._end_task),
                *(web.route(route.method, route.pattern, self._write(route)) for route in self._routes),
                *(
                    web.post(route.pattern + _MEMBERS, self._write(route))
                    for route in self._routes
                    if route.method == "POST" and "/Actions/" not in route.pattern
                ),
                web.get("/redfish{tail:.*}", self._read),
            ]
        )
        app.on_shutdown.append(self._close)
        return app

    async def _close(self, _app: web.Application) -> None:
        await self._changes.close()

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._requests += 1
        request[REQUEST_ID] = f"r{self._requests}"
        redfish_request = request.path.startswith("/redfish")
        if redfish_request:
            self._by_method[request.method] += 1
        denied = self._authenticate(request) if redfish_request else None
        if redfish_request and request.headers.get("OData-Version", "4.0") != "4.0":
            denied = refusal(412, message("PreconditionFailed"))
        if self._dialect.renames and self._dialect.outward(request.path) != request.path:
            denied = denied or refusal(404, message("ResourceMissingAtURI", request.path))
        try:
            response = to_response(request, denied) if denied else await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allow = {"Allow": ", ".join(sorted(error.allowed_methods))}
            response = to_response(request, refusal(405, message("OperationNotAllowed"), headers=allow))
        except web.HTTPNotFound:
            response = to_response(request, refusal(404, message("ResourceMissingAtURI", request.path)))
        if self._dialect.renames and isinstance(response, web.Response) and isinstance(response.body, bytes):
            response.body = self._dialect.outward(response.body.decode()).encode()
            if "Location" in response.headers:
                response.headers["Location"] = self._dialect.outward(response.headers["Location"])
        if redfish_request:
            self._by_status[str(response.status)] += 1
            response.headers["OData-Version"] = "4.0"
            response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Request-Id"] = request[REQUEST_ID]
        return response

    def _authenticate(self, request: web.Request) -> Reply | None:
        """Note who asks; the error answer when they may not."""
        request[SESSION] = request[USER] = ""
        path = request.path.rstrip("/")
        token = request.headers.get("X-Auth-Token")
        basic = request.headers.get("Authorization")
        if path in _OPEN or (request.method == "POST" and path.removesuffix(_MEMBERS) == redfish.SESSIONS):
            return None
        if token is not None:
            session = self._sessions.use(token, time.monotonic())
            if session is not None:
                request[SESSION], request[USER] = session.id, session.user
                return None
        elif basic is not None:
            user = self._sessions.accepts_basic(basic)
            if user is not None:
                request[USER] = user
                return None
        elif not self._sessions.required:
            return None
        return refusal(
            401,
            message("ResourceAtUriUnauthorized", request.path, "no valid session"),
            headers={"WWW-Authenticate": 'Basic realm="redfish"'},
        )

    async def _login(self, request: web.Request) -> web.Response:
        try:
            data = await request.json()
        except ValueError:
            return to_response(request, refusal(400, message("MalformedJSON")))
        if not isinstance(data, dict):
            return to_response(request, refusal(400, message("MalformedJSON")))
        for name in ("UserName", "Password"):
            if name not in data:
                return to_response(request, refusal(400, message("PropertyMissing", name)))
        context = data.get("Context")
        if context is not None and (not isinstance(context, str) or len(context) > 256):
            return to_response(request, refusal(400, message("PropertyValueTypeError", "", "Context")))
        user, number = str(data["UserName"]), request[REQUEST_ID]
        if not self._sessions.accepts(data["UserName"], data["Password"]):
            self._journal.write("refused", user=user, request=number, outcome="login")
            text = "wrong user name or password"
            error = message("ResourceAtUriUnauthorized", request.path, text)
            return to_response(request, refusal(401, error))
        session = self._sessions.create(user, context, utc_now(), time.monotonic())
        self._journal.write("login", session=session.id, user=user, request=number)
        body = document(session)
        headers = {"X-Auth-Token": session.token, "Location": body["@odata.id"]}
        return to_response(request, Reply(201, body, headers))

    async def _logout(self, request: web.Request) -> web.Response:
        ended = self._sessions.delete(request.match_info["id"])
        if ended is None:
            return to_response(request, refusal(404, message("ResourceMissingAtURI", request.path)))
        self._journal.write("logout", session=ended.id, user=ended.user, request=request[REQUEST_ID])
        return web.Response(status=204)

    async def _read(self, request: web.Request) -> web.Response:
        path = self._dialect.inward(request.path.rstrip("/"))
        struck = self._faults.strike(_target(path))
        for fault in struck:
            if fault.kind is FaultKind.HANG:
                await asyncio.sleep(fault.seconds)
            else:
                return to_response(request, fault_reply(fault))
        if path == "/redfish":
            return to_response(request, Reply(200, {"v1": f"{redfish.ROOT}/"}))
        if path == f"{redfish.ROOT}/odata":
            return to_response(request, Reply(200, metadata.service_document()))
        if path == _METADATA:
            xml = {"Content-Type": "application/xml"}
            return to_response(request, Reply(200, metadata.metadata_document(), xml))
        try:
            expand, page = self._query(request)
        except BadQueryError as error:
            return to_response(request, refusal(400, message("QueryParameterValueFormatError", *error.args)))
        except NotImplementedError:
            return to_response(request, refusal(501, message("QueryNotSupported")))
        found = self._tree.read(path, expand, page) if path.startswith(redfish.ROOT) else None
        if found is None:
            return to_response(request, refusal(404, message("ResourceMissingAtURI", request.path)))
        body, etag = found
        headers = {"ETag": etag, "Allow": self._allowed(path), "Link": metadata.described_by(body)}
        if request.headers.get("If-None-Match") == etag and not request.query:
            return to_response(request, Reply(304, None, headers))
        return to_response(request, Reply(200, body, headers))

    def _allowed(self, path: str) -> str:
        routes = (*_FIXED, *((route.method, route.pattern) for route in self._routes))
        return ", ".join(
            (
                "GET",
                "HEAD",
                *sorted({method for method, pattern in routes if named_in(pattern, path) is not None}),
            )
        )

    def _query(self, request: web.Request) -> tuple[Expand | None, Page]:
        """Raises BadQueryError, and NotImplementedError for a parameter that Redfish lets a service refuse."""
        expand, numbers = None, {"$skip": 0, "$top": self._page_size}
        for name, value in request.query.items():
            if name == "$expand":
                expand = Expand.parse(value)
            elif name in numbers:
                if not value.isascii() or not value.isdigit():
                    raise BadQueryError(value, name)
                numbers[name] = int(value)
            elif name.startswith("$"):
                raise NotImplementedError
        top = numbers["$top"]
        if self._page_size is not None:
            top = min(top or 0, self._page_size) or self._page_size
        return expand, Page(numbers["$skip"] or 0, top)

    async def _monitor(self, request: web.Request) -> web.Response:
        task = self._tasks.get(request.match_info["id"])
        if task is None:
            return to_response(request, refusal(404, message("ResourceMissingAtURI", request.path)))
        if not task.has_ended:
            headers = {"Location": task.monitor, "Retry-After": "1"}
            return to_response(request, Reply(202, task.document(), headers))
        return to_response(request, task.result or Reply(410))

    async def _end_task(self, request: web.Request) -> web.Response:
        task = self._tasks.get(request.match_info["id"])
        if task is None:
            return to_response(request, refusal(404, message("ResourceMissingAtURI", request.path)))
        if task.state == "Running":
            return to_response(request, refusal(409, message("ResourceInUse")))
        if task.has_ended:
            self._tasks.forget(task.id)
        else:
            task.cancel(utc_now())
        return web.Response(status=204)

    def _write(self, route: Route) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            path, sent = self._dialect.inward(request.path.removesuffix(_MEMBERS)), await request.read()
            write = Write(
                method=request.method,
                path=path,
                body=self._dialect.inward(sent.decode(errors="replace")).encode()
                if self._dialect.renames
                else sent,
                headers=request.headers,
                request=request[REQUEST_ID],
                session=request[SESSION],
                user=request[USER],
            )
            named = named_in(route.pattern, path) or {}

            def plan() -> Plan:
                return route.plan(write, named, self._tree)

            return to_response(request, await self._changes.carry_out(write, plan))

        return handle

    async def _stats(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "requests": {"byMethod": self._by_method, "byStatus": self._by_status},
                "acts": self._journal.counts,
                "tasks": len(self._tasks.documents()),
                "sessions": len(self._sessions.documents()),
            }
        )

    async def _show_faults(self, _request: web.Request) -> web.Response:
        return web.json_response(self._faults.describe())

    async def _add_faults(self, request: web.Request) -> web.Response:
        try:
            data = await request.json()
            added = _FAULT_LIST.validate_python(data if isinstance(data, list) else [data])
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
            return web.json_response({"problems": problems}, status=400)
        except ValueError as error:
            return web.json_response({"problems": [str(error)]}, status=400)
        self._faults.add(added)
        return web.json_response(self._faults.describe(), status=201)

    async def _clear_faults(self, _request: web.Request) -> web.Response:
        self._faults.clear()
        return web.Response(status=204)


def _target(path: str) -> Target:
    """What a GET is about."""
    parts = path.removeprefix(redfish.ROOT).strip("/").split("/")
    block = parts[2] if parts[:2] == ["CompositionService", "ResourceBlocks"] and len(parts) > 2 else ""
    host = parts[1] if parts[0] == "Systems" and len(parts) > 1 else ""
    return Target(path, host, read=block)

"""Calls to engines that change their stage by an HTTP request. What they say is taken for what they say, no more.

The address is the pod's own and everything else the administrator's (`presets.<name>.role_switch`): no user makes the
operator call anything. A pod that shares its host's address is not called, since the port could be anybody's there.
"""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import json
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from weft.balancing.replicas import Replica
from weft.balancing.settings import RoleSwitchSettings
from weft.balancing.steps import GateReason

READ_SECONDS = 2.0
MOST_BYTES = 1 << 20
WORDS_MOST = 200


class Answer(enum.Enum):
    """What came of a call that asks an engine to change its stage."""

    PENDING = enum.auto()
    DONE = enum.auto()
    REFUSED = enum.auto()
    """The engine says that it did not begin: it is as it was."""
    UNKNOWN = enum.auto()
    """No answer, or one that does not say how the engine is now."""


@dataclass(frozen=True)
class Call:
    """The last call to one engine, in the leader's memory."""

    stage: str
    answer: Answer = Answer.PENDING
    words: str = ""
    """The engine's own, for people."""
    seen_at: float | None = None
    """Boot seconds when the answer was first looked at."""


@dataclass(frozen=True)
class EngineRole:
    """What is known of one engine."""

    stage: str = ""
    """The stage that it says it serves, as in `weft.dev/stage`; empty where it does not tell."""
    call: Call | None = None
    seconds: float = 0.0
    """Since the answer to that call was first looked at."""


Calls = MutableMapping[str, Call]
"""By the pod's uid."""


class EngineCalls:
    """The calls of this process. `close` when the operator ends."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(
        self, replicas: list[Replica], settings: RoleSwitchSettings, calls: Calls, boot: float
    ) -> Mapping[str, EngineRole]:
        """What each of these engines says of itself, by replica."""
        asked_for = {one.pod_uid for one in replicas}
        for uid, call in [*calls.items()]:
            if uid not in asked_for:
                del calls[uid]
            elif call.answer is not Answer.PENDING and call.seen_at is None:
                calls[uid] = replace(call, seen_at=boot)
        # Taken before the engines are asked: whoever has answered a call is asked after it.
        known = dict(calls)
        stages = await asyncio.gather(*(self._stage(one, settings) for one in replicas))
        found: dict[str, EngineRole] = {}
        for one, stage in zip(replicas, stages, strict=True):
            last = known.get(one.pod_uid)
            if last is not None and last.answer is not Answer.PENDING and last.stage == stage:
                calls.pop(one.pod_uid, None)
                last = None
            since = last.seen_at if last is not None else None
            found[one.name] = EngineRole(stage, last, boot - since if since is not None else 0.0)
        return found

    def switch(self, replica: Replica, stage: str, settings: RoleSwitchSettings, calls: Calls) -> None:
        """Ask an engine to change its stage; what comes of it is in `calls` later."""
        calls[replica.pod_uid] = Call(stage)
        task = asyncio.create_task(self._switch(replica, stage, settings, calls))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what is under way, and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _stage(self, replica: Replica, settings: RoleSwitchSettings) -> str:
        try:
            status, body = await self._ask(replica, "GET", settings.role_path, settings.port, READ_SECONDS)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return ""
        found: Any = body
        for key in settings.role_field.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return next((stage for stage, word in settings.role.items() if status == 200 and word == found), "")

    async def _switch(self, replica: Replica, stage: str, settings: RoleSwitchSettings, calls: Calls) -> None:
        body, seconds = settings.body[stage], settings.timeout_seconds
        try:
            status, said = await self._ask(replica, "POST", settings.path, settings.port, seconds, body)
        except (aiohttp.ClientConnectorError, ValueError) as error:
            # Nothing was sent: there was no connection, or no address.
            calls[replica.pod_uid] = Call(stage, Answer.REFUSED, type(error).__name__)
            return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            calls[replica.pod_uid] = Call(stage, Answer.UNKNOWN, type(error).__name__)
            return
        words = _printable(said, status)
        if 200 <= status < 300:
            answer = Answer.DONE
        elif isinstance(said, dict) and said.get(settings.unchanged_field) is True:
            answer = Answer.REFUSED
        elif 300 <= status < 400 or status in (401, 403, 404, 405, 422):
            answer = Answer.REFUSED  # it was not taken for a call
        else:
            answer = Answer.UNKNOWN
        calls[replica.pod_uid] = Call(stage, answer, words)

    async def _ask(
        self, replica: Replica, method: str, path: str, port: int, seconds: float, body: object = None
    ) -> tuple[int, object]:
        """Status and JSON of an answer; None for what is no JSON. Raises ValueError where there is no address."""
        address = _address(replica)
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False)
        limit = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, READ_SECONDS))
        url = f"http://{address}:{port}{path}"
        asked = self._session.request(method, url, json=body, allow_redirects=False, timeout=limit)
        async with asked as response:
            text = await response.content.read(MOST_BYTES)
            while len(text) < MOST_BYTES and (more := await response.content.read(MOST_BYTES)):
                text += more
            try:
                return response.status, json.loads(text)
            except (ValueError, RecursionError):
                return response.status, None


def asked(replicas: Iterable[Replica], moving: Collection[str]) -> list[Replica]:
    """The replicas whose engine is asked for its stage: those on their way, those that came back from it, and those
    that were started anew since, as engines then have the stage of their arguments again."""
    return [
        one
        for one in replicas
        if one.has_pod
        and not one.pod_deleting
        and (one.name in moving or one.gate_reason == GateReason.ROLLED_BACK or _started_again(one))
    ]


def _started_again(one: Replica) -> bool:
    """Whether a replica's containers became ready again after it had changed its role: the change leaves them ready."""
    since, made = one.role_since, one.created_at
    if since is None or made is None or one.containers_changed_at is None or since <= made:
        return False
    return one.containers_changed_at > since


def _address(replica: Replica) -> str:
    pod = replica.pod or {}
    if (pod.get("spec") or {}).get("hostNetwork"):
        raise ValueError("the pod shares its host's address")
    address = ipaddress.ip_address((pod.get("status") or {}).get("podIP") or "")
    return f"[{address}]" if address.version == 6 else str(address)


def _printable(said: object, status: int) -> str:
    message = said.get("message") if isinstance(said, dict) else None
    words = "".join(one if one.isprintable() else " " for one in message) if isinstance(message, str) else ""
    return words[:WORDS_MOST] or f"HTTP {status}"

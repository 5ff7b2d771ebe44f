"""Answers `weft plan` over HTTP: what would become of objects if they were applied. Writes nothing.

Who asks proves it by a token that the API server made for a ServiceAccount of their namespace, for this audience alone:
whoever may make one may edit there, and it opens nothing else. What concerns all namespaces needs one of the operator's
own namespace. docs/design.md says why so.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from aiohttp import web

from weft.api import InferenceGroup, InferenceRole
from weft.api.names import LABEL_GROUP, LABEL_ROLE
from weft.api.resources import (
    DEVICE_QUOTAS,
    FABRICS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    POOLS,
    ResourceType,
)
from weft.api.whatif import MOST_BYTES, MOST_OBJECTS, PLAN_AUDIENCE, TOKEN_HEADER
from weft.balancing.bodies import with_template
from weft.balancing.whatif import RoleForecast, answered, nodes_of, question_of
from weft.binding.whatif import FOR_ALL, Answer, Forecast
from weft.cluster import ClusterError, Object
from weft.domains import DomainAnswer, DomainQuestion
from weft.runtime.cache import ObjectCache
from weft.runtime.client import KubeClient

TOKEN_REVIEWS = ResourceType("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", False)
KINDS = {
    each.kind: each
    for each in (FABRICS, *POOLS, DEVICE_QUOTAS, LOGICAL_NODES, INFERENCE_GROUPS, INFERENCE_ROLES)
}
MOST_NODES = 256
"""Logical nodes that one question may come to."""
BODY_SECONDS = 10.0
MOST_AT_ONCE = 4
"""Questions that are worked on or wait for their turn."""
EACH_SECONDS, BURST = 0.5, 10
"""How often a question is taken, on average, and how many at once before that."""

Change = tuple[ResourceType, Object]
Ask = Callable[[Sequence[Change], datetime], Awaitable[Answer | None]]
AskDomain = Callable[[DomainQuestion, datetime], Awaitable[DomainAnswer | None]]
NOT_YET = "not every Fabric was looked at since this replica leads: ask again"


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WhatIf:
    """The handler of POST /plan. `namespace`: the operator's own; `boot`: seconds of a clock that does not jump."""

    def __init__(
        self,
        client: KubeClient,
        cache: ObjectCache,
        namespace: str,
        leads: Callable[[], bool],
        boot: Callable[[], float],
        wall: Callable[[], datetime],
        ask: Ask,
        ask_domain: AskDomain,
    ) -> None:
        self._client = client
        self._cache = cache
        self._namespace = namespace
        self._leads = leads
        self._boot, self._wall = boot, wall
        self._ask = ask
        self._ask_domain = ask_domain
        self._under_way = 0
        self._tokens, self._filled = float(BURST), boot()

    async def answer(self, request: web.Request) -> web.Response:
        try:
            self._admit()
            self._under_way += 1
            try:
                return web.json_response(await self._answer(request))
            finally:
                self._under_way -= 1
        except _Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)

    def _admit(self) -> None:
        if not self._leads():
            raise _Refused(503, "another replica leads: ask again")
        now = self._boot()
        self._tokens = min(BURST, self._tokens + (now - self._filled) / EACH_SECONDS)
        self._filled = now
        if self._under_way >= MOST_AT_ONCE or self._tokens < 1:
            raise _Refused(429, "too many ask at once: try again in a few seconds")
        self._tokens -= 1

    async def _answer(self, request: web.Request) -> Object:
        asker = await self._asker(request.headers.get(TOKEN_HEADER, ""))
        try:
            changes = changes_of(json.loads(await _body(request)))
        except (ValueError, RecursionError) as error:
            raise _Refused(400, f"not a list of Weft's objects: {error}") from error
        for resource, raw in changes:
            if asker != self._namespace and (
                resource in FOR_ALL or raw["metadata"].get("namespace") != asker
            ):
                raise _Refused(
                    403,
                    f"a token of namespace {asker} asks about its requests alone: fabrics, pools, quotas and several"
                    f" namespaces at once need the right to create serviceaccounts/token in {self._namespace}",
                )
        try:
            roles, changes = await self._with_nodes(changes)
            if len(changes) > MOST_NODES:
                raise _Refused(413, f"more than {MOST_NODES} logical nodes: plan fewer replicas at once")
            answer = await self._ask(changes, self._wall())
        except ValueError as error:
            raise _Refused(400, f"an object cannot be read: {error}") from error
        if answer is None:
            raise _Refused(503, NOT_YET)
        seen = [each if asker == self._namespace else _as_seen_by(asker, each) for each in answer.own]
        return {
            "nodes": [asdict(each) for each in seen],
            "roles": [asdict(each) for each in roles],
            "others": [asdict(each) for each in answer.others],
            "pools": [asdict(each) for each in answer.pools],
            "fabrics": [asdict(each) for each in answer.fabrics],
        }

    async def _asker(self, token: str) -> str:
        """The namespace whose ServiceAccount the token was made for."""
        if not token:
            raise _Refused(
                401, f"the header {TOKEN_HEADER} is missing: a token for the audience {PLAN_AUDIENCE}"
            )
        spec = {"token": token, "audiences": [PLAN_AUDIENCE]}
        head = {"apiVersion": TOKEN_REVIEWS.api_version, "kind": TOKEN_REVIEWS.kind, "metadata": {}}
        try:
            review = await self._client.create(TOKEN_REVIEWS, {**head, "spec": spec})
        except ClusterError as error:
            raise _Refused(503, f"the API server does not say whose token it is: {error}") from error
        status = review.get("status", {})
        parts = str(status.get("user", {}).get("username", "")).split(":")
        known = status.get("authenticated") is True and PLAN_AUDIENCE in status.get("audiences", ())
        if not known or parts[:2] != ["system", "serviceaccount"] or len(parts) != 4:
            raise _Refused(401, f"not a ServiceAccount's token for the audience {PLAN_AUDIENCE}")
        return parts[2]

    async def _with_nodes(self, changes: Iterable[Change]) -> tuple[list[RoleForecast], list[Change]]:
        """What becomes of roles, and the changes with the logical nodes that their replicas would ask for."""
        changes = list(changes)
        changed: dict[tuple[ResourceType, str, str], Object] = {}
        for resource, raw in changes:
            changed[resource, raw["metadata"].get("namespace", ""), raw["metadata"]["name"]] = raw
        groups = {
            (raw["metadata"]["namespace"], raw["metadata"]["name"])
            if resource == INFERENCE_GROUPS
            else (raw["metadata"]["namespace"], InferenceRole.model_validate(raw).spec.group_ref.name)
            for resource, raw in changes
            if resource in (INFERENCE_GROUPS, INFERENCE_ROLES)
        }
        told: list[RoleForecast] = []
        rest = [each for each in changes if each[0] not in (INFERENCE_GROUPS, INFERENCE_ROLES)]
        for namespace, name in sorted(groups):
            there = self._cache.get(INFERENCE_GROUPS, name, namespace)
            raw_group = _laid_over(changed.get((INFERENCE_GROUPS, namespace, name)), there)
            if raw_group is None:
                text = f"there is no InferenceGroup {name} here, and none in the file: its roles get nothing"
                told.append(RoleForecast(namespace, name, 0, 0, message=text))
                continue
            known = {one["metadata"]["name"]: one for one in self._cache.list(INFERENCE_ROLES, namespace)}
            names = known.keys() | {
                role for kind, at, role in changed if kind == INFERENCE_ROLES and at == namespace
            }
            pairs = (
                (changed.get((INFERENCE_ROLES, namespace, role)), known.get(role)) for role in sorted(names)
            )
            raws = (_laid_over(*pair) for pair in pairs)
            roles = [InferenceRole.model_validate(one) for one in raws if one is not None]
            here: dict[str, list[Object]] = defaultdict(list)
            for node in self._cache.list(LOGICAL_NODES, namespace):
                labels = node["metadata"].get("labels", {})
                if labels.get(LABEL_GROUP) == name:
                    here[labels.get(LABEL_ROLE, "")].append(node)
            own = [role for role in roles if role.spec.group_ref.name == name]
            # More would be refused anyway; a thousand searches are not done to say so.
            if sum(role.spec.replicas_asked for role in own) > MOST_NODES:
                raise _Refused(413, f"more than {MOST_NODES} replicas: plan fewer at once")
            group = InferenceGroup.model_validate(raw_group)
            before = (known[one.metadata.name] for one in own if one.metadata.name in known)
            made_from = [InferenceRole.model_validate(one) for one in before]
            if there is not None:
                now = InferenceGroup.model_validate(there)
                made_from = [whole for one in made_from if (whole := with_template(now, one)) is not None]
            said, made = nodes_of(group, own, here, made_from)
            question = question_of(group, made) if not here else None
            if question is not None:
                answer = await self._ask_domain(question, self._wall())
                if answer is None:
                    raise _Refused(503, NOT_YET)
                said, made = answered(said, made, question, answer)
            told += said
            rest += [(LOGICAL_NODES, node) for node in made]
        return told, rest


async def _body(request: web.Request) -> bytes:
    """All of it, unless it is too much or takes too long."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while len(body) <= MOST_BYTES and (more := await request.content.read(MOST_BYTES)):
                body += more
    except TimeoutError as error:
        raise _Refused(408, "the question did not come in time") from error
    except ConnectionError as error:
        raise _Refused(400, "whoever asked went away in the middle of the question") from error
    if len(body) > MOST_BYTES:
        raise _Refused(413, f"more than {MOST_BYTES} bytes: plan fewer objects at once")
    return bytes(body)


def changes_of(body: Any) -> list[Change]:
    """The objects of a question with their kinds. Raises ValueError."""
    objects = body.get("objects") if isinstance(body, dict) else None
    if not isinstance(objects, list) or not 0 < len(objects) <= MOST_OBJECTS:
        raise ValueError(f'{{"objects": [...]}} with 1 to {MOST_OBJECTS} objects')
    found = []
    for raw in objects:
        if not isinstance(raw, dict) or not isinstance(raw.get("metadata"), dict):
            raise ValueError("an object without metadata")
        resource = KINDS.get(str(raw.get("kind")))
        if resource is None or raw.get("apiVersion") != resource.api_version:
            raise ValueError(f"{raw.get('apiVersion')} {raw.get('kind')} is not planned")
        metadata = raw["metadata"]
        wanted = ("name", "namespace") if resource.namespaced else ("name",)
        if not all(isinstance(metadata.get(each), str) and metadata[each] for each in wanted):
            raise ValueError(f"a {resource.kind} without {' and '.join(wanted)}")
        parts = [metadata.get("labels", {}), metadata.get("annotations", {}), raw.get("spec", {})]
        if not all(isinstance(each, dict) for each in parts):
            raise ValueError(
                f"{resource.kind} {metadata['name']} is not an object as the API server gives it"
            )
        found.append((resource, raw))
    seen = {(kind, raw["metadata"].get("namespace"), raw["metadata"]["name"]) for kind, raw in found}
    if len(seen) < len(found):
        raise ValueError("an object is there twice")
    return found


def _laid_over(wanted: Object | None, there: Object | None) -> Object | None:
    """The object as it would be: the status is the cluster's word alone."""
    if wanted is None:
        return there
    metadata = {**(there["metadata"] if there is not None else {}), **_plain(wanted["metadata"])}
    status = {"status": there["status"]} if there is not None and "status" in there else {}
    return {
        "apiVersion": wanted["apiVersion"],
        "kind": wanted["kind"],
        "metadata": metadata,
        "spec": wanted["spec"],
    } | (status)


def _plain(metadata: Object) -> Object:
    return {key: metadata[key] for key in ("name", "namespace", "labels", "annotations") if key in metadata}


def _as_seen_by(namespace: str, forecast: Forecast) -> Forecast:
    """Of others' logical nodes a tenant learns that there are some, and neither names nor how many."""
    own = tuple(each for each in forecast.preempts if each.startswith(f"{namespace}/"))
    others = ("logical nodes of other namespaces",) if len(own) < len(forecast.preempts) else ()
    return replace(forecast, preempts=(*own, *others))

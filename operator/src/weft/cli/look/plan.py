"""`weft plan -f FILE`: what would happen if a file were applied. Nothing is written.

The API server is asked first, by a dry-run of a server-side apply: its refusals are the last word. What it would take
is then answered by the operator, which alone knows the devices.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from rich.console import Group, RenderableType
from rich.text import Text

from weft.api.resources import (
    DEVICE_QUOTAS,
    ENGINE_PROFILES,
    FABRICS,
    GROUP,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    POOLS,
    ResourceType,
)
from weft.api.whatif import PLAN_AUDIENCE, TOKEN_HEADER
from weft.cli.look.reading import NAME, AskError
from weft.cli.look.words import indented, refusal
from weft.cluster import ClusterError, NotFoundError, Object
from weft.plain import plain
from weft.runtime.client import KubeClient

FOR_ALL = (FABRICS, *POOLS, DEVICE_QUOTAS)
APPLIED = {
    each.kind: each for each in (*FOR_ALL, LOGICAL_NODES, INFERENCE_GROUPS, INFERENCE_ROLES, ENGINE_PROFILES)
}
"""Kinds that are planned; of others it is said that they are not looked at."""
MANAGER = "weft-plan"
TRIES = 10
"""With two replicas of the operator a question reaches the one that does not lead every other time."""
AGAIN_SECONDS = 0.3
BUSY = (429, 503)
GOING = "is being deleted"


@dataclass(frozen=True)
class Applied:
    """What the API server would do with one object of the file."""

    what: str
    verdict: str
    """create, change, unchanged, refused, is being deleted, or not looked at."""
    message: str = ""


@dataclass(frozen=True)
class Plan:
    """The whole answer."""

    objects: tuple[Applied, ...]
    nodes: tuple[Mapping[str, Any], ...] = ()
    """As `weft.binding.whatif.Forecast`."""
    roles: tuple[Mapping[str, Any], ...] = ()
    """As `weft.balancing.whatif.RoleForecast`."""
    others: tuple[Mapping[str, Any], ...] = ()
    """Of those that wait already, who would be told something else."""
    pools: tuple[Mapping[str, Any], ...] = ()
    """As `weft.binding.whatif.PoolForecast`."""
    fabrics: tuple[Mapping[str, Any], ...] = ()
    """As `weft.binding.whatif.FabricForecast`: those that could not be read."""
    cost_per_hour: str = "0"
    """Of all devices that would be attached at once."""

    @property
    def refused(self) -> bool:
        """Whether anything of it would not be taken, or never be met."""
        return (
            any(one.verdict in ("refused", GOING) for one in self.objects)
            or any(one["outcome"] == "refused" for one in self.nodes)
            or any(one.get("refused") for one in (*self.roles, *self.pools))
            or bool(self.fabrics)
        )


def objects_in(paths: Iterable[Path], namespace: str) -> list[Object]:
    """The objects of files and of folders' files. Raises AskError, also where one comes twice."""
    found: list[Object] = []
    for path in paths:
        for file in files_of(path):
            try:
                found += objects_of(read_file(file), namespace)
            except AskError as error:
                raise AskError(f"{file}: {error}") from error
    named: set[tuple[str, ...]] = set()
    for each in found:
        metadata = each["metadata"]
        name = (each["kind"], metadata.get("namespace", ""), metadata["name"])
        if name in named:
            raise AskError(f"{each['kind']} {metadata['name']} is there twice: leave one of them out")
        named.add(name)
    return found


def objects_of(text: str, namespace: str) -> list[Object]:
    """The objects of a YAML or JSON text, also of lists, with a namespace where they need one. Raises AskError."""
    found: list[Any] = []
    try:
        for document in yaml.safe_load_all(text):
            if document is not None:
                whole = isinstance(document, dict) and isinstance(document.get("items"), list)
                found += document["items"] if whole else [document]
    except yaml.YAMLError as error:
        raise AskError(f"it is not YAML: {' '.join(str(error).split())}") from error
    for each in found:
        metadata = each.get("metadata") if isinstance(each, dict) else None
        if (
            not isinstance(metadata, dict)
            or not isinstance(metadata.get("name"), str)
            or not isinstance(metadata.get("namespace", ""), str)
            or not each.get("kind")
            or not isinstance(each["kind"], str)
        ):
            raise AskError(
                "it has something without kind and metadata.name, as text (generateName cannot be planned)"
            )
        if not all(map(NAME.fullmatch, (metadata["name"], metadata.get("namespace") or "default"))):
            raise AskError(
                f"{each['kind']} {metadata['name']!r}: no object and no namespace can be called so"
            )
        resource = APPLIED.get(each["kind"])
        if resource is not None and resource.namespaced:
            metadata.setdefault("namespace", namespace)
    if not found:
        raise AskError("it has no objects")
    return found


async def plan(
    client: KubeClient, objects: Iterable[Object], operator_namespace: str, service: str, url: str
) -> Plan:
    """Ask the API server, then the operator: through the API server, or at `url`. Raises AskError."""
    told: list[Applied] = []
    taken: list[Object] = []
    for wanted in objects:
        said, after = await _dry_run(client, wanted)
        told.append(said)
        # A profile is no request, and changes no devices by itself.
        if after is not None and wanted["kind"] != ENGINE_PROFILES.kind:
            taken.append(after)
    if not taken:
        return Plan(tuple(told))
    namespaces = {one["metadata"].get("namespace", "") for one in taken}
    for_all = len(namespaces) > 1 or any(APPLIED[one["kind"]] in FOR_ALL for one in taken)
    of = operator_namespace if for_all else namespaces.pop()
    try:
        token = await client.token_for(of, PLAN_AUDIENCE)
    except ClusterError as error:
        why = (
            ": fabrics, pools, quotas and several namespaces at once are for administrators"
            if for_all
            else ""
        )
        raise AskError(
            f"the operator answers who may create serviceaccounts/token in namespace {of}{why}: {error}"
        ) from error
    body = {"objects": taken}
    headers = {TOKEN_HEADER: token}
    if url:
        ask = partial(_post, f"{url.rstrip('/')}/plan", body, headers)
    else:
        ask = partial(client.post_to_service, operator_namespace, service, "/plan", body, headers)
    answer = await _patiently(ask)
    nodes = tuple(answer["nodes"])
    cost = sum(
        (Decimal(one["cost_per_hour"]) for one in nodes if one["outcome"] in ("binds", "grows")), Decimal(0)
    )
    roles, others, pools = (tuple(answer[part]) for part in ("roles", "others", "pools"))
    # An operator before 0.11 does not tell.
    fabrics = tuple(answer.get("fabrics", ()))
    return Plan(tuple(told), nodes, roles, others, pools, fabrics, f"{cost:f}")


async def _dry_run(client: KubeClient, wanted: Object) -> tuple[Applied, Object | None]:
    """What the API server would do, and the object as it would be; None where it would not take it."""
    metadata = wanted["metadata"]
    namespace = metadata.get("namespace", "")
    what = f"{wanted['kind']} {namespace + '/' if namespace else ''}{metadata['name']}"
    resource = APPLIED.get(wanted["kind"])
    version = wanted.get("apiVersion")
    if resource is None or version != resource.api_version:
        if version and not str(version).startswith(f"{GROUP}/"):
            return Applied(what, "not looked at", f"{version} is not Weft's"), None
        text = f"a kind is one of {', '.join(APPLIED)}, with apiVersion {LOGICAL_NODES.api_version}"
        return Applied(what, "refused", text), None
    there = await _there(client, resource, metadata["name"], namespace)
    try:
        after = await client.server_side_apply(resource, wanted, MANAGER, dry_run=True)
    except ClusterError as error:
        if error.status in (0, *BUSY):
            raise AskError(refusal(error)) from error
        return Applied(what, "refused", error.message or str(error)), None
    if there is None:
        unread = "its devices are known when it was read: mode Observe reads and changes nothing"
        return Applied(what, "create", unread if resource == FABRICS else ""), after
    if there["metadata"].get("deletionTimestamp"):
        # The API server takes it, and it goes all the same.
        return Applied(what, GOING, "apply it again once it is gone"), None
    return Applied(what, "unchanged" if there["spec"] == after["spec"] else "change"), after


async def _there(client: KubeClient, resource: ResourceType, name: str, namespace: str) -> Object | None:
    try:
        return await client.get(resource, name, namespace)
    except NotFoundError:
        return None
    except ClusterError as error:
        raise AskError(f"whether {resource.kind} {name} is there: {refusal(error)}") from error


async def _patiently(ask: Callable[[], Awaitable[Object]]) -> Object:
    """Ask again while a replica answers that does not lead, or too many ask. Raises AskError."""
    for left in range(TRIES)[::-1]:
        try:
            return await ask()
        except ClusterError as error:
            if error.reason == "Forbidden":
                raise AskError(
                    f"no right to ask the operator through the API server: {error.message}. The chart's value"
                    " tenantRoles.plan grants it"
                ) from error
            if error.status not in BUSY or not left:
                raise AskError(
                    f"the operator does not answer: {error.message or error}. It is reached through the API server as"
                    " Service NAME:PORT (--service, --operator-namespace), or directly with --operator URL"
                ) from error
        await asyncio.sleep(AGAIN_SECONDS)
    raise AssertionError


async def _post(url: str, body: Object, headers: Mapping[str, str]) -> Object:
    timeout = aiohttp.ClientTimeout(total=30)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, json=body, headers=headers) as response,
        ):
            text = await response.text()
            status = response.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ClusterError(0, "NoAnswer", f"{url}: {plain(error) or type(error).__name__}") from error
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {"error": text[:200]}
    if status >= 400 or not isinstance(answer, dict):
        raise ClusterError(
            status, "", str(answer.get("error", "")) if isinstance(answer, dict) else text[:200]
        )
    return answer


def files_of(path: Path) -> list[Path]:
    """The file, or of a folder those that kubectl would take, by name. Raises AskError."""
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.iterdir() if each.suffix in (".yaml", ".yml", ".json"))
    if not files:
        raise AskError(f"{path} has no .yaml, .yml or .json files")
    return files


def read_file(path: Path) -> str:
    """The text of a file, or of stdin for `-`. Raises AskError."""
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise AskError(
            f"it cannot be read: {error.strerror if isinstance(error, OSError) else error}"
        ) from error


WORDS = {
    "binds": ("+", "green", "would be bound"),
    "grows": ("+", "green", "would get what it lacks"),
    "waits": ("~", "yellow", "would wait"),
    "refused": ("!", "red", "would never bind, as things are"),
    "shrinks": ("-", "yellow", "would give devices back"),
    "stays": ("=", "", "keeps its devices as they are"),
}


def shown(plan: Plan) -> RenderableType:
    """The answer for a terminal."""
    signs = {
        "create": ("+", "green"),
        "change": ("~", "yellow"),
        "unchanged": ("=", ""),
        "refused": ("!", "red"),
        GOING: ("!", "red"),
    }
    parts: list[RenderableType] = []
    for one in plan.objects:
        sign, style = signs.get(one.verdict, ("?", ""))
        parts.append(
            Text(f"{sign} {one.what}: {one.verdict}{': ' + one.message if one.message else ''}", style=style)
        )
    for fabric in plan.fabrics:
        text = f"! Fabric {fabric['name']} could not be read: {'; '.join(fabric['lacks'])}"
        parts.append(indented(text, 4, "red"))
    for pool in plan.pools:
        models = f" ({', '.join(pool['models'])})" if pool["models"] else ""
        text = pool["message"] or f"would have {pool['devices']} devices{models}"
        sign, style = ("! ", "red") if pool.get("refused") else ("", "")
        parts.append(indented(f"{sign}{pool['kind']} {pool['name']}: {text}", 4, style))
    for _, roles in groupby(plan.roles, lambda role: (role["namespace"], role.get("group", ""))):
        parts += _roles(list(roles))
    for node in plan.nodes:
        parts += [Text(), *_node(node)]
    if plan.others:
        parts += [Text(), Text("of those that wait already", style="bold")]
        for node in plan.others:
            parts += _node(node)
    if plan.cost_per_hour != "0":
        parts += [
            Text(),
            Text(f"cost per hour of what would be attached at once: {plan.cost_per_hour}", style="bold"),
        ]
    parts += [
        Text(),
        Text("nothing was written; what others bind or release until you apply it may change the answer"),
    ]
    return Group(*parts)


def _roles(roles: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The roles of one group, and what the group says of them. An operator before 0.11 does not name the group."""
    parts: list[RenderableType] = []
    for role in roles:
        name = f"{role['namespace']}/{role['name']}"
        count = f"{role['replicas']} replica{'' if role['replicas'] == 1 else 's'}"
        parts += [Text(), Text(f"InferenceRole {name}: {count}, {role['there']} have a logical node")]
        if ended := role.get("ended"):
            back = f", and give back {role['released']} accelerators" if role["released"] else ""
            text = f"- {ended} of its replicas would end, the least loaded first{back}"
            parts.append(indented(text, 4, "yellow"))
        if rolled := role.get("rolled"):
            text = f"~ its template changes: {rolled} replicas would be made anew, one after the other"
            parts.append(indented(text, 4, "yellow"))
        if role["remade"]:
            parts.append(indented(f"made anew, one after the other: {', '.join(role['remade'])}", 4))
    for message in dict.fromkeys(role["message"] for role in roles if role["message"]):
        group = roles[0].get("group", "")
        whose = f"InferenceGroup {roles[0]['namespace']}/{group}: " if group else ""
        sign, style = ("!", "red") if roles[0].get("refused") else ("~", "yellow")
        parts.append(Text(f"{sign} {whose}{message}", style=style))
    return parts


def _node(node: Mapping[str, Any]) -> list[RenderableType]:
    sign, style, words = WORDS[node["outcome"]]
    at = f" on Node {node['node_name']} (host {node['host']})" if node["outcome"] == "binds" else ""
    parts: list[RenderableType] = [
        Text(f"{sign} LogicalNode {node['namespace']}/{node['name']} {words}{at}", style=style)
    ]
    if node["reason"]:
        place = f", place {node['place']} in the queue" if node["place"] else ""
        parts.append(indented(f"{node['reason']}{place}: {node['message']}", 4))
    for device in node["devices"]:
        domains = f", {', '.join(device['domains'])}" if device["domains"] else ""
        model = f" {device['model']}" if device["model"] else ""
        cost = f", {device['cost_per_hour']} an hour" if device["cost_per_hour"] != "0" else ""
        where = f"of {device['pool']} at Fabric {device['fabric']}{domains}{cost}"
        parts.append(indented(f"{device['request']}: {device['device']}{model} {where}", 4))
    if node["gives_back"]:
        parts.append(indented(f"gives back {', '.join(node['gives_back'])}, once no pod uses the host", 4))
    if node["preempts"]:
        parts.append(indented(f"would ask to give way: {', '.join(node['preempts'])}", 4))
    return parts

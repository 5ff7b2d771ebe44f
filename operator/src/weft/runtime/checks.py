"""`weft check`: questions about an installation that Helm's hooks ask, answered with what to do next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import aiohttp

from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    ENGINE_PROFILES,
    FABRICS,
    GROUP,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LEASES,
    LOGICAL_NODES,
    POOLS,
    VERSION,
    ResourceType,
)
from weft.cluster import ClusterError, NotFoundError, Object
from weft.plain import plain
from weft.runtime.client import KubeClient, load_configuration
from weft.runtime.leadership import NAME as LEASE_NAME

OWN = (INFERENCE_GROUPS, INFERENCE_ROLES, ENGINE_PROFILES, LOGICAL_NODES, DEVICE_ATTACHMENTS, *POOLS, FABRICS)
"""Weft's resources, in the order in which their objects can be deleted."""
SHOWN = 10
"""Objects of a kind that a message names."""
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""How long an API server that does not answer is asked again; well within the deadline of Helm's hook."""


async def installed(url: str, namespace: str, timeout_seconds: float) -> str:
    """What keeps the operator behind `url` from its work, or an empty text.

    Every part is looked at until it is well or `timeout_seconds` are over: a rollout may be under way.
    Raises StartError without credentials of a cluster.
    """
    client = KubeClient(await load_configuration())
    deadline = time.monotonic() + timeout_seconds
    checks: tuple[Callable[[], Awaitable[str]], ...] = (
        lambda: _definitions(client),
        lambda: _ready(url, namespace),
        lambda: _leader(client, namespace, deadline),
    )
    try:
        for check in checks:
            while problem := await check():
                if time.monotonic() > deadline:
                    return problem
                await asyncio.sleep(POLL_SECONDS)
        return ""
    finally:
        await client.close()


async def _definitions(client: KubeClient) -> str:
    try:
        missing = {resource.plural for resource in OWN} - await client.served(GROUP, VERSION)
    except ClusterError as error:
        return f"the API server does not answer: {error}"
    if not missing:
        return ""
    return (
        f"the API server has no {', '.join(sorted(missing))} of {GROUP}/{VERSION}: "
        "install with crds.enabled=true, or apply the files of crds/ of this version"
    )


async def _ready(url: str, namespace: str) -> str:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(f"{url}/readyz") as answer,
        ):
            if answer.status == 200:
                return ""
            problem = f"answers {answer.status}"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        problem = plain(error) or type(error).__name__
    return (
        f"no replica is ready behind {url}: {problem}; look at "
        f"`kubectl get pods -n {namespace}` and at `kubectl logs` of the operator's pods"
    )


async def _leader(client: KubeClient, namespace: str, deadline: float) -> str:
    """Wait for one renewal of the Lease: that shows a living holder, whatever the clocks say."""
    first: Mapping[str, str] = {}
    refused = ""
    while True:
        try:
            now, refused = await _lease(client, namespace), ""
        except ClusterError as error:
            now, refused = first, f"{error}; "
        if now.get("holderIdentity") and now.get("holderIdentity") == first.get("holderIdentity"):
            if now.get("renewTime") != first.get("renewTime"):
                return ""
        else:
            first = now
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_SECONDS)
    return (
        f"no replica leads: nobody renews the Lease {namespace}/{LEASE_NAME} ({refused}"
        f"holder {first.get('holderIdentity') or 'none'}); look at `kubectl logs` of the operator's pods"
    )


async def _lease(client: KubeClient, namespace: str) -> Mapping[str, str]:
    try:
        lease = await client.get(LEASES, LEASE_NAME, namespace)
    except NotFoundError:
        return {}
    spec: Mapping[str, str] = lease.get("spec") or {}
    return spec


async def removable(undo: str = "") -> str:
    """What keeps the definitions of Weft's objects from being deleted, or an empty text.

    An object with a finalizer waits for the operator, which is gone by then: the deletion would hang, and its
    hardware would stay attached. `undo` is the command that takes the attempt to uninstall back.
    Raises StartError without credentials, ClusterError when a list is refused or not answered for a while.
    """
    client = KubeClient(await load_configuration())
    deadline = time.monotonic() + PATIENCE_SECONDS
    held: dict[ResourceType, list[str]] = {}
    try:
        for resource in OWN:
            objects = await _objects(client, resource, deadline)
            names = [
                "/".join(filter(None, (each["metadata"].get("namespace"), each["metadata"]["name"])))
                for each in objects
                if each["metadata"].get("finalizers")
            ]
            if names:
                held[resource] = sorted(names)
    finally:
        await client.close()
    return refusal(held, undo) if held else ""


async def _objects(client: KubeClient, resource: ResourceType, deadline: float) -> list[Object]:
    while True:
        try:
            if resource.plural not in await client.served(GROUP, VERSION):
                return []
            objects, _ = await client.list(resource)
            return objects
        except ClusterError as error:
            passing = error.status in (0, 404, 429) or error.status >= 500
            if not passing or time.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL_SECONDS)


def refusal(held: Mapping[ResourceType, list[str]], undo: str = "") -> str:
    """Which objects to delete first and how; `held` is not empty."""
    lines = [
        "no. These objects hold a finalizer: deleting their definitions would hang, and leave their hardware attached.",
    ]
    for resource, names in held.items():
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"  {resource.plural}: {', '.join(names[:SHOWN])}{more}")
    lines.append("Delete them in this order, with the operator running, and uninstall again:")
    for resource in held:
        if resource == DEVICE_ATTACHMENTS:
            lines.append(
                "  (deviceattachments go with their logical nodes; delete one by hand only when it is Quarantined)"
            )
        else:
            lines.append(f"  kubectl delete {resource.plural}.{GROUP} --all{' -A' * resource.namespaced}")
    if undo:
        lines.append(f"Or stay installed:\n  {undo}")
    lines.append("To keep definitions and objects, upgrade with crds.keep=true before you uninstall.")
    return "\n".join(lines)

"""The only module that speaks to the API server: JSON in, JSON out, errors as `ClusterError`.

It stands on the official client for configuration, credentials and connections, and leaves out its
generated models: Weft reads objects through its own.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yaml
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config

from weft.api.resources import GROUP, SCALE, ResourceType
from weft.cluster import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    InvalidError,
    NotFoundError,
    Object,
    UnknownAddressError,
)
from weft.plain import plain

PAGE = 500
"""Objects per page of a list: keeps the API server's memory and ours bounded."""


BROKEN_KUBECONFIG = (
    k8s_config.ConfigException,
    yaml.YAMLError,
    OSError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What the client lets through where a kubeconfig is not one."""


class StartError(Exception):
    """The operator cannot start; the message says what the administrator has to change."""


def kubeconfigs(named: str | None) -> tuple[str, bool]:
    """The kubeconfigs that are meant, as KUBECONFIG has them, and whether any of them is there."""
    files = named or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return files, any(Path(file).expanduser().exists() for file in files.split(os.pathsep) if file)


async def load_configuration(kubeconfig: str | None = None, context: str | None = None) -> k8s.Configuration:
    """Credentials of the pod's service account, else of the kubeconfig (by default `KUBECONFIG`, and its context).

    Raises StartError when there is neither.
    """
    configuration = k8s.Configuration()
    try:
        if kubeconfig or context:
            raise k8s_config.ConfigException
        k8s_config.load_incluster_config(client_configuration=configuration)
    except k8s_config.ConfigException:
        files, found = kubeconfigs(kubeconfig)
        if not found:
            raise StartError(
                f"no cluster to work with: there is no file {files}; set KUBECONFIG to the one of your cluster"
            ) from None
        try:
            await k8s_config.load_kube_config(files, context, client_configuration=configuration)
        except BROKEN_KUBECONFIG as error:
            what = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, (TypeError, AttributeError)):
                what = "it is no kubeconfig"
            raise StartError(
                f"no cluster to work with: {files} cannot be used: {what}; `kubectl config get-contexts` shows what"
                " there is"
            ) from error
    # Not False: that is the number 0, after which the client's retries have no end.
    configuration.retries = None
    return configuration


def current_namespace(kubeconfig: str | None = None, context: str | None = None) -> str:
    """The namespace of a context of the kubeconfig (by default the current one), else `default`."""
    try:
        contexts, current = k8s_config.list_kube_config_contexts(kubeconfigs(kubeconfig)[0])
    except BROKEN_KUBECONFIG:
        return "default"
    chosen = next((one for one in contexts if one["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this URL (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), or None."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


class KubeClient:
    """Requests to the API server. Every call is bounded by `timeout_seconds`; none is repeated here."""

    def __init__(
        self,
        configuration: k8s.Configuration,
        timeout_seconds: float = 10.0,
        requested: Callable[[str, int, float], None] | None = None,
    ) -> None:
        """`requested` is told of each request: method, status of the answer (0: none), and seconds."""
        self._requested = requested
        # Else a proxy and a netrc are looked for with each request, in a thread.
        configuration.client_session_kwargs = {"trust_env": False}
        if configuration.proxy is None:
            configuration.proxy = proxy_for(configuration.host)
        self._api = k8s.ApiClient(configuration)
        self._timeout_seconds = timeout_seconds

    async def close(self) -> None:
        await self._api.close()

    async def get(
        self, resource: ResourceType, name: str, namespace: str = "", subresource: str = ""
    ) -> Object:
        return await self._request("GET", resource.path(namespace, name, subresource))

    async def list(
        self, resource: ResourceType, namespace: str = "", labels: str = ""
    ) -> tuple[list[Object], int]:
        """All objects of a resource, by default of all namespaces, and the resourceVersion of the list."""
        items: list[Object] = []
        token = ""
        chosen = {"limit": str(PAGE), **({"labelSelector": labels} if labels else {})}
        while True:
            query = {**chosen, **({"continue": token} if token else {})}
            page = await self._request("GET", resource.path(namespace), query)
            for item in page["items"]:
                # A list leaves these out of its members.
                item["apiVersion"], item["kind"] = resource.api_version, resource.kind
                items.append(item)
            token = page["metadata"].get("continue", "")
            if not token:
                return items, int(page["metadata"]["resourceVersion"])

    async def find(self, resource: ResourceType, namespace: str, field_selector: str) -> tuple[Object, ...]:
        """The objects of a namespace that a field selector selects."""
        page = await self._request("GET", resource.path(namespace, ""), {"fieldSelector": field_selector})
        kind = {"apiVersion": resource.api_version, "kind": resource.kind}
        return tuple({**item, **kind} for item in page["items"])

    async def served(self, group: str, version: str) -> set[str]:
        """Plural names of the resources that the API server has of a group's version; empty for none."""
        try:
            answer = await self._request("GET", f"/apis/{group}/{version}")
        except UnknownAddressError:
            # A gateway that finds nothing knows no groups either.
            groups = (await self._request("GET", "/apis"))["groups"]
            if any(each["name"] == group for each in groups):
                raise
            return set()
        return {each["name"] for each in answer["resources"] if "/" not in each["name"]}

    async def create(self, resource: ResourceType, body: Object, *, dry_run: bool = False) -> Object:
        # A misspelt field is refused: dropped, its effect would be missing and nobody would know.
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        return await self._request(
            "POST", resource.path(body["metadata"].get("namespace", ""), ""), query, body
        )

    async def server_side_apply(
        self, resource: ResourceType, body: Object, manager: str, *, dry_run: bool
    ) -> Object:
        """Server-side apply, also of fields that others own; the object as it is, or would be, afterwards."""
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        path = resource.path(body["metadata"].get("namespace", ""), body["metadata"]["name"])
        # JSON is YAML, too.
        return await self._request("PATCH", path, query, body, "application/apply-patch+yaml")

    async def token_for(self, namespace: str, audience: str) -> str:
        """A token of ten minutes of a namespace's default ServiceAccount, good for one audience."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
        spec = {"audiences": [audience], "expirationSeconds": 600}
        head = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        return str((await self._request("POST", path, {}, {**head, "spec": spec}))["status"]["token"])

    async def post_to_service(
        self, namespace: str, service: str, path: str, body: Object, headers: Mapping[str, str]
    ) -> Object:
        """Ask a Service through the API server; `service`: its name and the name of its port, joined by a colon."""
        whole = f"/api/v1/namespaces/{namespace}/services/{service}/proxy{path}"
        return await self._request("POST", whole, {}, body, headers=headers)

    async def patch(
        self,
        resource: ResourceType,
        name: str,
        namespace: str,
        body: Mapping[str, Any],
        *,
        subresource: str = "",
    ) -> Object:
        # Of built-in resources the API server merges some lists (a pod's conditions by type) and replaces others (a
        # Node's taints); of custom ones, and of any workload's scale, it replaces all.
        merge = resource.group == GROUP or subresource == SCALE
        strategy = "merge" if merge else "strategic-merge"
        content_type = f"application/{strategy}-patch+json"
        return await self._request(
            "PATCH", resource.path(namespace, name, subresource), {}, dict(body), content_type
        )

    async def replace_status(self, resource: ResourceType, body: Object) -> Object:
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"], "status")
        return await self._request("PUT", path, {}, body)

    async def replace(self, resource: ResourceType, body: Object) -> Object:
        metadata = body["metadata"]
        return await self._request(
            "PUT", resource.path(metadata.get("namespace", ""), metadata["name"]), {}, body
        )

    async def delete(
        self,
        resource: ResourceType,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        grace_seconds: int | None = None,
    ) -> Object:
        """Returns the object where something keeps it for now, else a Status."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        return await self._request("DELETE", resource.path(namespace, name), {}, options)

    async def evict(self, resource: ResourceType, name: str, namespace: str, uid: str) -> Object:
        body: Object = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        return await self._request("POST", resource.path(namespace, name, "eviction"), {}, body)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Object:
        all_headers = {"Accept": "application/json", "Content-Type": content_type, **(headers or {})}
        _, url, all_headers, _, _ = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=all_headers,
            auth_settings=["BearerToken"],
        )
        began, status = time.monotonic(), 0
        try:
            response = await self._api.call_api(
                method, url, all_headers, body, _request_timeout=self._timeout_seconds
            )
            payload = await response.read()
            status = response.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ClusterError(
                0, "NoAnswer", f"{method} {path}: {plain(error) or type(error).__name__}"
            ) from error
        finally:
            if self._requested is not None:
                self._requested(method, status, time.monotonic() - began)
        try:
            answer: Any = json.loads(payload)
        except ValueError:
            answer = None
        if status >= 400:
            if not isinstance(answer, dict):
                answer = {"message": payload[:500].decode(errors="replace")}
            raise _error(status, answer, response.headers.get("Retry-After", ""))
        if not isinstance(answer, dict):
            # A gateway's page in place of the API server's answer.
            raise ClusterError(0, "NoAnswer", f"{method} {path}: {status} without a JSON object")
        return answer


def _error(status: int, answer: Object, retry_after: str) -> ClusterError:
    # What is reached through the API server says `error`.
    reason, message = str(answer.get("reason", "")), str(answer.get("message", answer.get("error", "")))
    kinds: dict[int, type[ClusterError]] = {
        400: InvalidError,
        404: NotFoundError if reason == "NotFound" else UnknownAddressError,
        409: AlreadyExistsError if reason == "AlreadyExists" else ConflictError,
        422: InvalidError,
    }
    # The API server writes seconds; a proxy's date says nothing that growing delays would not.
    seconds = float(retry_after) if retry_after.isdigit() else 0.0
    return kinds.get(status, ClusterError)(status, reason, message, seconds)

"""A small blocking client of the Kubernetes API, for tests and developers' programs, on the official one.

Not the operator's own client: tests look at the cluster through other eyes. It leaves out the generated models: JSON
in, JSON out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client as k8s
from kubernetes import config as k8s_config

from weft.api.resources import ResourceType
from weft.cluster import ClusterError, NotFoundError, Object

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
TIMEOUT_SECONDS = 30.0


class Kube:
    """One API server, as the user of a kubeconfig's current context. Thread-safe."""

    def __init__(self, kubeconfig: Path) -> None:
        configuration = k8s.Configuration()
        k8s_config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        configuration.retries = False
        # The clusters here are this machine's: a proxy of the environment must not get these requests.
        configuration.proxy = None
        self._api = k8s.ApiClient(configuration)

    def get(self, resource: ResourceType, name: str, namespace: str = "") -> Object | None:
        """The object, or None when there is none."""
        try:
            return self.request("GET", resource.path(namespace, name))
        except NotFoundError:
            return None

    def list(self, resource: ResourceType, namespace: str = "", *, selector: str = "") -> list[Object]:
        """The objects of a namespace, or of all (""), that have the labels."""
        query = {"labelSelector": selector} if selector else {}
        items: list[Object] = self.request("GET", resource.path(namespace), query=query)["items"]
        return items

    def create(
        self, resource: ResourceType, body: Object, namespace: str = "", *, dry_run: bool = False
    ) -> Object:
        """Create an object; `namespace` defaults to the one in its metadata."""
        namespace = namespace or body["metadata"].get("namespace", "")
        query = {"dryRun": "All"} if dry_run else {}
        return self.request("POST", resource.path(namespace), body, query=query)

    def apply(self, resource: ResourceType, body: Object, namespace: str = "") -> Object:
        """Create or change an object by server-side apply, taking over fields that others own."""
        namespace = namespace or body["metadata"].get("namespace", "")
        path = resource.path(namespace, body["metadata"]["name"])
        query = {"fieldManager": "weft-dev", "force": "true"}
        return self.request("PATCH", path, body, APPLY_PATCH, query=query)

    def patch(
        self,
        resource: ResourceType,
        name: str,
        body: Mapping[str, Any],
        namespace: str = "",
        *,
        subresource: str = "",
        content_type: str = MERGE_PATCH,
    ) -> Object:
        """Change an object, or its `subresource`, by a patch."""
        path = resource.path(namespace, name, subresource)
        return self.request("PATCH", path, dict(body), content_type)

    def replace(
        self, resource: ResourceType, body: Object, namespace: str = "", *, subresource: str = ""
    ) -> Object:
        """Replace an object, guarded by the resourceVersion in `body`."""
        namespace = namespace or body["metadata"].get("namespace", "")
        return self.request("PUT", resource.path(namespace, body["metadata"]["name"], subresource), body)

    def delete(
        self, resource: ResourceType, name: str, namespace: str = "", *, grace_seconds: int | None = None
    ) -> None:
        """Ask for the deletion of an object; one that is gone already is success."""
        query = {"gracePeriodSeconds": str(grace_seconds)} if grace_seconds is not None else {}
        try:
            self.request("DELETE", resource.path(namespace, name), query=query)
        except NotFoundError:
            return

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        *,
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """Send a request and return the JSON that answers it. Raises ClusterError, of status 0 without an answer."""
        status, payload = self.raw(method, path, body, content_type, query=query)
        if status < 400:
            answer: Object = json.loads(payload)
            return answer
        try:
            refusal = json.loads(payload)
        except json.JSONDecodeError:
            refusal = {"message": payload.decode(errors="replace")}
        reason = refusal.get("reason", "")
        kind = NotFoundError if reason == "NotFound" else ClusterError
        raise kind(status, reason, refusal.get("message", ""))

    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        *,
        query: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Send a request and return status and body as they came. Raises ClusterError of status 0 without an answer."""
        _, url, headers, _, _ = self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._api.call_api(method, url, headers, body, _request_timeout=TIMEOUT_SECONDS)
            return answer.status, answer.read()
        except (urllib3.exceptions.HTTPError, k8s.ApiException, OSError) as error:
            raise ClusterError(0, "NoAnswer", f"{method} {path}: {error}") from error

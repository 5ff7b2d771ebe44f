"""Server-side apply of objects of any kind the demo uses."""

from __future__ import annotations

from weft.api import resources
from weft.api.resources import ResourceType
from weft_dev.kube import APPLY_PATCH, Object, object_path
from weft_dev.kube_async import AsyncKube

_BY_KIND = {each.kind: each for each in vars(resources).values() if isinstance(each, ResourceType)}


async def apply(api: AsyncKube, body: Object) -> Object:
    """As `kubectl apply --server-side`. Raises KubeError with the API server's message."""
    resource = _BY_KIND[body["kind"]]
    metadata = body["metadata"]
    path = object_path(resource, metadata.get("namespace", ""), metadata["name"])
    return await api.request("PATCH", f"{path}?fieldManager=weft-demo&force=true", body, APPLY_PATCH)

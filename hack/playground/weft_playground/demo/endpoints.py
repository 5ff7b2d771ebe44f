"""Says in EndpointSlices which pods are ready, for front ends that go by those.

Kubernetes' own controller cannot: pods are at loopback addresses here, which an EndpointSlice may not have. These have
names instead; Dynamo takes the address from the worker's own record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from weft.api.names import LABEL_GROUP
from weft.api.resources import PODS, ResourceType
from weft.cluster import ClusterError, Object
from weft_dev.kube_async import AsyncKube
from weft_playground.demo.facts import is_serving

ENDPOINT_SLICES = ResourceType("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True)
RETRY_SECONDS = 0.5
log = logging.getLogger(__name__)


async def keep_endpoints(api: AsyncKube, namespaces: Sequence[str], labels: Mapping[str, str]) -> None:
    """A slice with these labels in each namespace, for ever."""
    async with asyncio.TaskGroup() as tasks:
        for namespace in namespaces:
            tasks.create_task(_keep(api, namespace, labels))


async def _keep(api: AsyncKube, namespace: str, labels: Mapping[str, str]) -> None:
    # Its namespace may not be there yet.
    written = endpoint_slice(namespace, labels, ())
    async for pods in api.follow(PODS, namespace, labels=LABEL_GROUP):
        wanted = endpoint_slice(namespace, labels, pods.values())
        while wanted != written:
            try:
                await api.apply(ENDPOINT_SLICES, wanted)
                written = wanted
            except ClusterError as error:
                log.info("endpoints of %s: %s; trying again", namespace, error)
                await asyncio.sleep(RETRY_SECONDS)


def endpoint_slice(namespace: str, labels: Mapping[str, str], pods: Iterable[Object]) -> Object:
    """Each pod's endpoint is ready when its condition Ready is True and it is not being deleted."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "workers", "namespace": namespace, "labels": dict(labels)},
        "addressType": "FQDN",
        "endpoints": [
            {
                "addresses": [f"{each['metadata']['name']}.{namespace}.pod"],
                "conditions": {"ready": is_serving(each)},
                "targetRef": {
                    "kind": "Pod",
                    "namespace": namespace,
                    "name": each["metadata"]["name"],
                    "uid": each["metadata"]["uid"],
                },
            }
            for each in sorted(pods, key=lambda each: str(each["metadata"]["name"]))
        ],
    }

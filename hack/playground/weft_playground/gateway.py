"""A process with one router per inference group; each follows its group's pods through the API server.

`python -m weft_playground.gateway --kubeconfig F --model M demo-auto/llama-70b=8001 ...`; in a pod without --kubeconfig
and with --host 0.0.0.0.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from weft.api.names import LABEL_GROUP, LABEL_STAGE
from weft.api.resources import PODS
from weft.cluster import Object
from weft_dev.kube_async import AsyncKube, connected
from weft_playground.engine_server import PORT
from weft_playground.lag import LagMeter
from weft_playground.processes import measure_loop, until_stopped
from weft_playground.router import Endpoint, Router


@dataclass(frozen=True)
class Listener:
    """Where a group's requests arrive."""

    namespace: str
    group: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Listener:
        """`namespace/group=port`"""
        where, _, port = text.partition("=")
        namespace, _, group = where.partition("/")
        return cls(namespace, group, int(port))


def endpoint(pod: Object) -> Endpoint:
    """What the router needs of a pod. One that is being deleted takes no new requests."""
    status, metadata = pod.get("status", {}), pod["metadata"]
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ()))
    ip = status.get("podIP", "")
    return Endpoint(
        name=metadata["uid"],
        url=f"http://{ip}:{PORT}",
        stage=metadata.get("labels", {}).get(LABEL_STAGE, ""),
        ready=ready and bool(ip) and "deletionTimestamp" not in metadata,
    )


async def follow_pods(api: AsyncKube, listener: Listener, router: Router) -> None:
    """Keep the router's view of its group's pods, for ever."""
    selector = f"{LABEL_GROUP}={listener.group}"
    async for pods in api.follow(PODS, listener.namespace, labels=selector):
        router.update(endpoint(pod) for pod in pods.values())


async def serve(kubeconfig: Path | None, model_name: str, host: str, listeners: Sequence[Listener]) -> None:
    lag = LagMeter()
    routers = [Router(model_name, lag) for _ in listeners]
    for router, listener in zip(routers, listeners, strict=True):
        await router.start(host, listener.port)

    async def work() -> None:
        async with connected(kubeconfig) as api, asyncio.TaskGroup() as group:
            group.create_task(measure_loop(lag))
            for router, listener in zip(routers, listeners, strict=True):
                group.create_task(follow_pods(api, listener, router))

    await until_stopped(work())
    for router in routers:
        await router.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kubeconfig", type=Path, help="absent: the pod's service account")
    parser.add_argument("--model", required=True, help="the model's name in the routers' metrics")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("listeners", nargs="+", type=Listener.parse, metavar="NAMESPACE/GROUP=PORT")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s router: %(message)s")
    uvloop.run(serve(arguments.kubeconfig, arguments.model, arguments.host, arguments.listeners))


if __name__ == "__main__":
    main()

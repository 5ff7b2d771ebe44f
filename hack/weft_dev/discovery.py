"""Tells a Prometheus that cannot ask Kubernetes itself (Debian's) which pods there are: file-based discovery.

Writes one target per pod that has Weft's group label, an address and an end still to come; Prometheus
watches the file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weft.api.names import LABEL_GROUP
from weft.api.resources import PODS
from weft_dev.kube import Object
from weft_dev.kube_address import read_kubeconfig
from weft_dev.kube_async import AsyncKube, Listed


def targets(pods: Iterable[Object], port: int) -> list[dict[str, Any]]:
    """The target groups of these pods, in Prometheus's format for files."""
    groups = []
    for pod in pods:
        status = pod.get("status", {})
        address = status.get("podIP")
        if address and status.get("phase") not in ("Succeeded", "Failed"):
            labels = {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}
            groups.append({"targets": [f"{address}:{port}"], "labels": labels})
    return sorted(groups, key=lambda group: group["targets"])


def write(path: Path, groups: list[dict[str, Any]]) -> None:
    """Replace the file at once, so that it is never read half-written."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(groups, indent=2))
    os.replace(temporary, path)


async def follow(kubeconfig: Path, path: Path, port: int) -> None:
    """Keep the file at `path` up to date, for ever."""
    pods: dict[str, Object] = {}
    written: list[dict[str, Any]] | None = None
    async with AsyncKube(read_kubeconfig(kubeconfig)) as kube:
        async for event in kube.follow(PODS, labels=LABEL_GROUP):
            if isinstance(event, Listed):
                pods = {pod["metadata"]["uid"]: pod for pod in event.objects}
            elif event.deleted:
                pods.pop(event.object["metadata"]["uid"], None)
            else:
                pods[event.object["metadata"]["uid"]] = event.object
            groups = targets(pods.values(), port)
            if groups != written:
                write(path, groups)
                written = groups


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="weft_dev.discovery", description="Write pods as targets to a file."
    )
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(follow(options.kubeconfig, options.file, options.port))


if __name__ == "__main__":
    main()

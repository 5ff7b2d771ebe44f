"""The node containers as the engine knows them, and the mark of a cluster that was made completely."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from weft_dev.containers import ContainerError, docker
from weft_dev.kind.configuration import CLUSTER, POD_RANGE, SERVICE_RANGE

MARK = "/kind/weft-node.json"
GUARD = Path(__file__).with_name("guard-network")


@dataclass(frozen=True)
class Node:
    """One node container."""

    name: str
    running: bool
    address: str
    """Its IPv4 address in the cluster's network; empty while it does not run."""
    image_id: str
    started: datetime
    own_image: bool = False
    """Whether its image was built by Weft."""


def find() -> list[Node]:
    """The cluster's node containers, running or not, by name. Raises ContainerError."""
    label = f"label=io.x-k8s.kind.cluster={CLUSTER}"
    names = docker("ps", "--all", "--filter", label, "--format", "{{.Names}}").split()
    if not names:
        return []
    return sorted(map(parse, json.loads(docker("inspect", *names))), key=lambda node: node.name)


def parse(container: dict[str, Any]) -> Node:
    """A node out of what the engine says of its container."""
    addresses = [each["IPAddress"] for each in container["NetworkSettings"]["Networks"].values()]
    running = container["State"]["Running"] and not container["State"]["Paused"]
    started = datetime.fromisoformat(container["State"]["StartedAt"])
    own = (container["Config"].get("Labels") or {}).get("dev.weft.part") == "node"
    return Node(
        container["Name"].lstrip("/"), running, "".join(addresses[:1]), container["Image"], started, own
    )


def mark(nodes: list[Node]) -> None:
    """Write into each node that its cluster is complete, with the address that it has."""
    for node in nodes:
        content = json.dumps({"address": node.address})
        docker("exec", node.name, "sh", "-c", f"echo '{content}' >{MARK}")


def marked_address(node: Node) -> str | None:
    """The address that a node had when its cluster was complete; None for one that never was. It need not run."""
    try:
        packed = docker("cp", f"{node.name}:{MARK}", "-")
    except ContainerError:
        return None
    with tarfile.open(fileobj=io.BytesIO(packed.encode())) as archive:
        member = archive.extractfile(archive.getmembers()[0])
        return str(json.load(member)["address"]) if member else None


def guard(nodes: list[Node]) -> None:
    """Refuse what is sent to addresses that nothing has: the official image does not come with that."""
    for node in nodes:
        with GUARD.open("rb") as script:
            docker(
                *("exec", "--interactive", node.name, "bash", "-s", "--", POD_RANGE, SERVICE_RANGE),
                stdin=script,
            )

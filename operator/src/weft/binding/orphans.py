"""Attachments on a fabric that no DeviceAttachment here stands for: since when, and which may be detached. Pure.

What takes a device from somebody needs evidence for everything: a device whose Node is not known, or of which a reading
says nothing, stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from weft.api.fabric import OrphanPolicy
from weft.binding.evidence import Pair
from weft.binding.status import Fact
from weft.cluster import Object
from weft.fabric.driver import Inventory


def orphans(inventory: Inventory, claimed: frozenset[Pair]) -> tuple[Pair, ...]:
    """The attachments that nobody here claims, in order."""
    return tuple(sorted(set(inventory.attachments) - claimed))


@dataclass
class Sightings:
    """Since when each orphan was seen, in seconds since the machine started. Of this leader."""

    since: dict[Pair, float] = field(default_factory=dict)

    def seen(self, found: Iterable[Pair], at: float) -> None:
        """A whole reading shows these orphans, and no others."""
        self.since = {pair: self.since.get(pair, at) for pair in found}


@dataclass(frozen=True)
class Verdict:
    """What is to be done about orphans that are there for long enough."""

    detach: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Devices by host."""
    kept: tuple[str, ...] = ()
    """Why others stay, for people."""


def judge(
    due: Iterable[Pair],
    other_owners: Mapping[str, str],
    devices_claimed: frozenset[str],
    node_of: Mapping[str, str],
    pods: Iterable[Object],
) -> Verdict:
    """Which of these orphans may be detached.

    `other_owners`: marks of other clusters, by device. `devices_claimed`: devices with a DeviceAttachment for
    whatever host. `node_of`: the Node of each host that has one.
    """
    users = users_by_node(pods)
    detach: dict[str, set[str]] = {}
    kept: list[str] = []
    for device, host in sorted(due):
        node = node_of.get(host, "")
        if owner := other_owners.get(device):
            kept.append(f"{device} at {host}: it carries the mark of another owner, {owner}")
        elif device in devices_claimed:
            kept.append(f"{device} at {host}: a DeviceAttachment claims it for another host")
        elif not node:
            kept.append(
                f"{device} at {host}: no Node is known to run there, so that its pods cannot be looked for"
            )
        elif names := users.get(node):
            kept.append(f"{device} at {host}: pods run on Node {node} ({', '.join(names[:3])})")
        else:
            detach.setdefault(host, set()).add(device)
    return Verdict({host: frozenset(devices) for host, devices in detach.items()}, tuple(kept))


def users_by_node(pods: Iterable[Object]) -> dict[str, list[str]]:
    """Pods that may use a device, by their Node: not those of DaemonSets and of the Node's own manifests."""
    found: dict[str, list[str]] = {}
    for pod in pods:
        metadata = pod["metadata"]
        owners = {owner["kind"] for owner in metadata.get("ownerReferences", [])}
        if owners & {"DaemonSet", "Node"} or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            continue
        if node := pod["spec"].get("nodeName"):
            found.setdefault(node, []).append(f"{metadata['namespace']}/{metadata['name']}")
    return {node: sorted(names) for node, names in found.items()}


def orphans_fact(
    found: tuple[Pair, ...], policy: OrphanPolicy | None, kept: tuple[str, ...], *, whole: bool
) -> Fact:
    """The condition NoOrphans."""
    if not found:
        message = "every attachment on the fabric is known here"
        if not whole:
            message = (
                "every attachment that was read is known here; not all could be read, see InventoryComplete"
            )
        return "NoOrphans", True, "NoOrphans", message
    shown = ", ".join(f"{device} at {host}" for device, host in found[:5])
    message = f"{len(found)} attachments without a DeviceAttachment; their devices are not offered: {shown}"
    if policy is OrphanPolicy.ADOPT:
        message += "; a LogicalNode that names them in spec.adopt takes them over"
    if policy is OrphanPolicy.DETACH:
        message += "; they are detached after limits.orphanSeconds"
        if kept:
            message += f", but for {'; '.join(kept[:3])}"
    return "NoOrphans", False, "OrphansFound", message

"""Whether a bound logical node can be worked with. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import find
from weft.binding.inventory import Picture
from weft.binding.objects import NodeView, taint_value
from weft.binding.status import Fact

ALL_GONE = "and make it anew: none is left"
DEVICE_TROUBLE = ("DeviceMissing", "DeviceUnhealthy", "DeviceAtTwoHosts")


def readiness(
    node: LogicalNode,
    places: Sequence[tuple[Sequence[DeviceAttachment], Picture | None]],
    at: NodeView,
    *,
    made: bool = False,
) -> Fact:
    """The condition Ready of a bound node. `places`: its claims at each fabric, with the last picture of that.

    `made`: its machine is there only while devices are attached.
    """
    unread: list[DeviceAttachment] = []
    for claims, picture in places:
        if (fact := _trouble(claims, picture)) is not None:
            return fact
        if picture is None or picture.problem:
            unread += claims
    said = find(node.status.conditions, "Ready")
    if unread and said is not None and said.status == "False" and said.reason in DEVICE_TROUBLE:
        # What was said of the devices stands until a reading that can be believed says otherwise.
        every = sum(len(claims) for claims, _ in places)
        if len(unread) == every or any(claim.spec.device in said.message for claim in unread):
            return "Ready", False, said.reason, said.message
    if made and not at.exists:
        text = (
            f"its machine was made; Node {at.name} has not registered yet, which it does once that has booted"
        )
        return "Ready", False, "WaitingForNode", text
    if not at.ready:
        text = f"Node {at.name or '(unknown)'} is not ready; its devices stay attached"
        return "Ready", False, "NodeNotReady", text
    if at.taint != taint_value(node.metadata.namespace, node.metadata.name):
        what = "is reserved for another logical node" if at.taint else "has lost its reservation"
        return "Ready", False, "NodeTaken", f"Node {at.name} {what}"
    return "Ready", True, "Ready", ""


def _trouble(claims: Sequence[DeviceAttachment], picture: Picture | None) -> Fact | None:
    """What is the matter with the devices at one host, by what was read of it."""
    host = claims[0].spec.host
    if picture is not None and (shared := sorted(picture.shared_at(host))):
        # What is shown twice is believed also of an incomplete reading: nobody may rely on such a device.
        text = f"the fabric shows {', '.join(shared)} at this host and at another one: ask an administrator"
        return "Ready", False, "DeviceAtTwoHosts", f"{text} to detach what does not belong there"
    if picture is None or picture.problem:
        return None
    shown = picture.by_host.get(host, frozenset())
    missing = sorted(claim.spec.device for claim in claims if claim.spec.device not in shown)
    if missing:
        rest = "to release the rest" if len(missing) < claims[0].spec.claim_size else ALL_GONE
        message = (
            f"the fabric no longer shows {', '.join(missing)} at the host; delete this LogicalNode {rest}"
        )
        return "Ready", False, "DeviceMissing", message
    faulty = sorted(claim.spec.device for claim in claims if claim.spec.device not in picture.healthy)
    if faulty:
        return "Ready", False, "DeviceUnhealthy", f"the fabric reports a fault of {', '.join(faulty)}"
    return None

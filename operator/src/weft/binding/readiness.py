"""Whether a bound logical node can be worked with. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import find
from weft.binding.inventory import Picture
from weft.binding.objects import NodeView, taint_value
from weft.binding.status import Fact

DEVICE_TROUBLE = ("DeviceMissing", "DeviceUnhealthy")


def readiness(
    node: LogicalNode,
    claims: Sequence[DeviceAttachment],
    picture: Picture | None,
    at: NodeView,
) -> Fact:
    """The condition Ready of a bound node. `at` is its Node."""
    if picture is None or picture.problem:
        # What was said of the devices stands until a reading that can be believed says otherwise.
        said = find(node.status.conditions, "Ready")
        if said is not None and said.status == "False" and said.reason in DEVICE_TROUBLE:
            return "Ready", False, said.reason, said.message
    else:
        inventory = picture.inventory
        shown = {device for device, host in inventory.attachments if host == claims[0].spec.host}
        healthy = {device.id for device in inventory.devices if device.healthy}
        missing = sorted(claim.spec.device for claim in claims if claim.spec.device not in shown)
        if missing:
            gone = ", ".join(missing)
            rest = "to release the rest" if len(missing) < len(claims) else "and make it anew: none is left"
            message = f"the fabric no longer shows {gone} at the host; delete this LogicalNode {rest}"
            return "Ready", False, "DeviceMissing", message
        faulty = sorted(claim.spec.device for claim in claims if claim.spec.device not in healthy)
        if faulty:
            return "Ready", False, "DeviceUnhealthy", f"the fabric reports a fault of {', '.join(faulty)}"
    if not at.ready:
        text = f"Node {at.name or '(unknown)'} is not ready; its devices stay attached"
        return "Ready", False, "NodeNotReady", text
    if at.taint != taint_value(node.metadata.namespace, node.metadata.name):
        return "Ready", False, "NodeTaken", f"Node {at.name} carries logical node {at.taint or '(none)'}"
    return "Ready", True, "Ready", ""

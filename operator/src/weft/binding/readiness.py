"""Whether a bound logical node can be worked with. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import find
from weft.binding.inventory import Picture
from weft.binding.objects import NodeView, taint_value
from weft.binding.status import Fact

DEVICE_TROUBLE = ("DeviceMissing", "DeviceUnhealthy", "DeviceAtTwoHosts")


def readiness(
    node: LogicalNode,
    claims: Sequence[DeviceAttachment],
    picture: Picture | None,
    at: NodeView,
) -> Fact:
    """The condition Ready of a bound node. `at` is its Node."""
    host = claims[0].spec.host
    if picture is not None and (shared := sorted(picture.shared_at(host))):
        # What is shown twice is believed also of an incomplete reading: nobody may rely on such a device.
        text = f"the fabric shows {', '.join(shared)} at this host and at another one: ask an administrator"
        return "Ready", False, "DeviceAtTwoHosts", f"{text} to detach what does not belong there"
    if picture is None or picture.problem:
        # What was said of the devices stands until a reading that can be believed says otherwise.
        said = find(node.status.conditions, "Ready")
        if said is not None and said.status == "False" and said.reason in DEVICE_TROUBLE:
            return "Ready", False, said.reason, said.message
    else:
        shown = picture.by_host.get(host, frozenset())
        missing = sorted(claim.spec.device for claim in claims if claim.spec.device not in shown)
        if missing:
            gone = ", ".join(missing)
            rest = "to release the rest" if len(missing) < len(claims) else "and make it anew: none is left"
            message = f"the fabric no longer shows {gone} at the host; delete this LogicalNode {rest}"
            return "Ready", False, "DeviceMissing", message
        faulty = sorted(claim.spec.device for claim in claims if claim.spec.device not in picture.healthy)
        if faulty:
            return "Ready", False, "DeviceUnhealthy", f"the fabric reports a fault of {', '.join(faulty)}"
    if not at.ready:
        text = f"Node {at.name or '(unknown)'} is not ready; its devices stay attached"
        return "Ready", False, "NodeNotReady", text
    if at.taint != taint_value(node.metadata.namespace, node.metadata.name):
        what = "is reserved for another logical node" if at.taint else "has lost its reservation"
        return "Ready", False, "NodeTaken", f"Node {at.name} {what}"
    return "Ready", True, "Ready", ""

"""What a claim is made of: the attachments that an assignment becomes. Pure."""

from __future__ import annotations

from weft.api.attachment import attachment_name
from weft.api.names import FINALIZER
from weft.api.quantity import format_bytes
from weft.binding.membership import POOL_KIND
from weft.binding.plan import Assignment, Chosen
from weft.binding.status import Fact
from weft.cluster import Object
from weft.fabric.driver import DeviceKind


def claim_refused(words: str, *, extends: bool = False) -> tuple[Fact, ...]:
    """What is true of a logical node while the API server does not let its devices be claimed, with its words."""
    text = f"a place was found, but the API server refuses to store a DeviceAttachment: {words}; it is tried again"
    if extends:
        # It keeps what it has.
        return (("Resized", False, "ClaimRefused", text),)
    return _refused(text)


def write_refused(words: str) -> tuple[Fact, ...]:
    """What is true of a logical node while the API server refuses another write without which nothing goes on."""
    return _refused(
        f"the API server refuses a write without which nothing goes on: {words}; it is tried again"
    )


def _refused(text: str) -> tuple[Fact, ...]:
    return (
        ("Reserved", False, "ClaimRefused", text),
        ("Bound", False, "ClaimRefused", text),
        ("Ready", False, "NotBound", text),
    )


def attachments(assignment: Assignment, operation: str) -> list[Object]:
    """The attachments of an assignment, one per device."""
    waiting, node_name = assignment.waiting, assignment.host.node_name
    host_of = dict(assignment.host.places)

    def body(chosen: Chosen) -> Object:
        device, (kind, pool) = chosen.offer.device, chosen.offer.pool
        fabric = chosen.offer.fabric
        spec = {
            "fabric": fabric,
            "device": device.id,
            "poolRef": {"kind": POOL_KIND[kind].value, "name": pool},
            "host": host_of[fabric],
            "nodeName": node_name,
            "operation": operation,
            "request": chosen.need,
            "claimSize": len(assignment.devices),
            "claimRef": {
                "namespace": waiting.namespace,
                "name": waiting.name,
                "uid": waiting.uid,
            },
        }
        if waiting.extends:
            spec["extends"] = waiting.extends
        if chosen.alternative:
            spec["alternative"] = chosen.alternative
        if kind is not DeviceKind.ACCELERATOR and device.capacity_bytes:
            spec["capacity"] = format_bytes(device.capacity_bytes)
        return {
            "metadata": {"name": attachment_name(fabric, device.id), "finalizers": [FINALIZER]},
            "spec": spec,
        }

    return [body(chosen) for chosen in assignment.devices]

"""Whether the manager that answers is the one that a Fabric stands for, and stands for it alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from weft.api import Fabric
from weft.api.fabric import FabricManager
from weft.binding.hosts import canonical
from weft.binding.status import Fact

ACCEPT_ANNOTATION = "weft.dev/accept-manager"
"""Value: the UUID of a service that an administrator says is the same manager as before, or `WITHOUT` it."""
WITHOUT = "without-"
"""Before the UUID that a manager had: an administrator says that it is the same one, and has no UUID any more."""


def manager_of(fabric: Fabric, service: str) -> FabricManager:
    """What is recorded of the manager that a Fabric now points at."""
    return FabricManager(endpoint=fabric.spec.endpoint, driver=fabric.spec.driver, service=canonical(service))


def is_another(known: FabricManager, service: str) -> bool:
    """Whether a service is not the one that is recorded; of one without a UUID nobody can tell."""
    before = canonical(known.service)
    return bool(before) and before != canonical(service)


def _place(endpoint: str) -> tuple[str, str | None, int | None, str]:
    """An address in the one form in which addresses are compared."""
    try:
        parts = urlsplit(endpoint)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        # A driver of somebody else's may take what is no URL.
        return "", endpoint, None, ""
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")


def moved(fabric: Fabric, is_claimed: bool) -> Fact | None:
    """Before anything is sent: an edited endpoint or driver, while devices are claimed at the earlier one."""
    known = fabric.status.manager
    if known is None or not is_claimed:
        return None
    if (known.endpoint, known.driver) == (fabric.spec.endpoint, fabric.spec.driver):
        return None
    message = (
        f"spec.endpoint and spec.driver cannot change while devices are claimed there: set them back to"
        f" {known.endpoint} and {known.driver}, or do so until the LogicalNodes bound there are deleted"
    )
    return "Connected", False, "EndpointChanged", message


def replaced(fabric: Fabric, is_claimed: bool, service: str) -> Fact | None:
    """Another manager answers at the address of the one at which devices are claimed."""
    known = fabric.status.manager
    if known is None or not is_claimed or not is_another(known, service):
        return None
    service = canonical(service)
    accepted = service or f"{WITHOUT}{known.service}"
    if fabric.metadata.annotations.get(ACCEPT_ANNOTATION, "").lower() == accepted.lower():
        return None
    if service:
        message = (
            f"the manager at {known.endpoint} now says that it is {service}, and was {known.service} when devices"
            f" were claimed there; if it is the same one, annotate the Fabric with {ACCEPT_ANNOTATION}={service}"
        )
    else:
        # Without a UUID it cannot be told from any other: whoever confirms it says that nothing else can be there.
        message = (
            f"the manager at {known.endpoint} shows no UUID any more: nothing is done there until the service"
            f" {known.service} answers there again; if it is the same one and lost its UUID for good, annotate the"
            f" Fabric with {ACCEPT_ANNOTATION}={accepted}"
        )
    return "Connected", False, "ManagerChanged", message


def second(fabric: Fabric, service: str, managed: Iterable[Fabric]) -> Fact | None:
    """Another Fabric manages the same manager already: two would attach a device twice."""
    if fabric.spec.mode != "Manage":
        return None
    service, place = canonical(service), _place(fabric.spec.endpoint)
    for other in managed:
        theirs = other.status.manager
        if other.metadata.name == fabric.metadata.name or theirs is None or other.spec.mode != "Manage":
            continue
        if (service and canonical(theirs.service) == service) or _place(theirs.endpoint) == place:
            message = (
                f"Fabric {other.metadata.name} manages the same manager; two would attach a device twice:"
                " delete one of them, or set its spec.mode to Observe"
            )
            return "Connected", False, "ManagedTwice", message
    return None

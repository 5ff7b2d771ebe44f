"""Whether an operator leads, as its Lease says: without one, what the objects say stays as it was."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from weft.api.resources import LEASES
from weft.cli.look.words import age
from weft.cluster import ClusterError, Object
from weft.runtime.client import KubeClient
from weft.runtime.leadership import NAME

LATE_SECONDS = 60.0
"""A Lease that was due for renewal so long ago is stale. The clocks of two machines may be seconds apart."""
EFFECT = (
    "nothing is decided, bound or released until an operator runs, and what is shown is what was said last"
)


async def leases(client: KubeClient) -> tuple[Object, ...] | None:
    """The operators' Leases, in whichever namespace; None where they cannot be told: mostly, whoever asks has no right
    to list them. That takes nothing from what was asked, least of all from a pause that is written already."""
    try:
        return await client.find(LEASES, "", f"metadata.name={NAME}")
    except ClusterError:
        return None


def nobody_leads(found: Iterable[Object] | None, now: datetime) -> str:
    """Why no operator leads, and what that means; empty where one does, or it is not known. Pure."""
    if found is None:
        return ""
    last = ""
    for lease in found:
        spec = lease.get("spec", {})
        renewed = datetime.fromisoformat(spec["renewTime"]) if spec.get("renewTime") else None
        if renewed is None:
            continue
        if not spec.get("holderIdentity"):
            last = f"the last one ended {age(renewed, now)} ago"
        elif (now - renewed).total_seconds() < spec.get("leaseDurationSeconds", 0) + LATE_SECONDS:
            return ""
        else:
            last = f"the last one, {spec['holderIdentity']}, has not been heard of for {age(renewed, now)}"
    return f"nobody leads: {last or 'none has run here yet'}; {EFFECT}"

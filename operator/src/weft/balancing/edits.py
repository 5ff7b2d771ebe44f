"""Which roles ask for another number than the allocation took account of. Pure.

In Paused and Recommend the allocation stays as it is, whatever the roles asked for before, and an edit of a role's
`spec.replicas` is followed. So `status.replicasAsked` has what each role asked for when the allocation last took
account of it; it is written with the allocation, in one write. A pass that saw an edit, but not yet that the group was
paused before it, writes nothing: its write of the status is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from weft.api import InferenceGroup, InferenceRole, RebalanceMode
from weft.balancing.state import Split


def asks_anew(group: InferenceGroup, role: InferenceRole) -> bool:
    """Whether the role is to have what it asks for now, whatever the allocation gives it."""
    if group.spec.rebalance.mode is RebalanceMode.AUTO:
        return False
    if role.spec.scale_target_ref is not None:
        # Nothing is written there, so the workload's own number holds.
        return True
    recorded, name = group.status.replicas_asked, role.metadata.name
    if recorded is None:
        # Before 0.11 nothing was recorded, and what the roles asked for held.
        return False
    known = Split.read(recorded)
    return not known.names(name) or known[name] != role.spec.replicas


def replicas_asked(
    group: InferenceGroup,
    every: Mapping[str, InferenceRole],
    decided: Mapping[str, InferenceRole],
    allocation: Split,
) -> Split:
    """What is to be recorded beside this allocation, of all roles and of those that it was decided for.

    An edit is recorded once it is followed: until then, without room for it or while the group is suspended, it is one.
    """
    before = Split.read(group.status.replicas_asked or ())
    found: dict[str, int] = {}
    for name, role in every.items():
        if role.spec.scale_target_ref is not None:
            continue
        spec = role.spec
        wanted = min(spec.max_replicas, spec.replicas_asked)
        follows = allocation.names(name) and allocation[name] == wanted
        if name in decided and (follows or not asks_anew(group, role)):
            found[name] = spec.replicas
        elif before.names(name):
            found[name] = before[name]
    return Split.of(found)

"""The one interconnect domain of all replicas of a group: when it is asked for, and what is recorded.

Placement chooses it (`weft.domains`): only there it is known which devices are free. It is recorded in the group's
status before the first logical node is made for it, and holds as long as a replica serves: others go there, or wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from weft.api.conditions import find
from weft.api.inference import Domain
from weft.balancing.observe import GroupPicture
from weft.balancing.replicas import Replica
from weft.balancing.roster import free_name
from weft.balancing.state import Finding, Note, Split
from weft.cluster import Object
from weft.controllers import Now
from weft.domains import WAITING, ChooseDomain, DomainQuestion


async def with_domain(picture: GroupPicture, choose: ChooseDomain, now: Now) -> GroupPicture:
    """The picture with the domain that is to be recorded, or why there is none."""
    group = picture.group
    placement, present, metadata = group.spec.placement, group.domain, group.metadata
    asks = placement is not None and metadata.deletion_timestamp is None
    wanted = _wanted(picture, Split.read(group.status.allocation)) if asks else {}
    attribute = placement.same_domain if placement is not None else ""
    question = DomainQuestion(metadata.namespace, metadata.name, attribute, present, wanted)
    if not wanted:
        await choose(replace(question, settled=True), now)
        return picture
    own = [one for one in picture.replicas if one.name in wanted]
    complete = len(own) == len(wanted) and all(one.node_bound and not one.misplaced for one in own)
    if present and (complete or any(_holds(one) for one in picture.replicas)):
        await choose(replace(question, settled=True), now)
        return replace(picture, domain=present)
    answer = await choose(replace(question, waits_since=_waits_since(picture, now)), now)
    there = (*own, *(one for one in picture.replicas if one.serving))
    if not answer.domain and present and any(one.node_bound and not one.misplaced for one in there):
        # Some have their devices, or serve until others do: the rest waits there, as what is free elsewhere would not
        # do either.
        return replace(picture, domain=present)
    return replace(
        picture, domain=answer.domain, no_domain=no_domain(answer.message) if not answer.domain else None
    )


def _waits_since(picture: GroupPicture, now: Now) -> datetime | None:
    """Since when it waits in the queue; None: it has no place there. What serves, or may take nothing, needs none."""
    group = picture.group
    if group.spec.suspend or any(one.serving for one in picture.replicas):
        return None
    said = find(group.status.conditions, "Balanced")
    waits = said is not None and said.reason == WAITING and said.status == "False"
    return said.last_transition_time if said is not None and waits else now.wall


def _holds(one: Replica) -> bool:
    """Whether it serves where the others are, and stays there."""
    return one.serving and not one.misplaced and not one.node_draining


def _wanted(picture: GroupPicture, allocation: Split) -> Mapping[str, Object]:
    """The spec of each logical node that the group is to have, by name: those that are there, then new ones."""
    found: dict[str, Object] = {}
    names = {*picture.taken, *(one.name for one in picture.replicas)}
    for name, role in picture.roles.items():
        if role.spec.node is None:
            continue
        spec = role.spec.node.dump()
        there = [
            one.name
            for one in picture.replicas
            if one.role == name and one.has_node and not one.removing and not one.node_draining
        ]
        for number in range(allocation[name]):
            made = there[number] if number < len(there) else free_name(picture.group.metadata.name, names)
            names.add(made)
            found[made] = spec
    return found


def no_domain(message: str) -> Finding:
    """Said while there is none; `message` says what is missing."""
    return Finding(
        False, "WaitingForDomain", f"no replica is made until there is a domain for all: {message}"
    )


def record(picture: GroupPicture) -> Domain | None:
    """What is recorded of it."""
    placement = picture.group.spec.placement
    if placement is None or not picture.domain:
        return None
    return Domain(attribute=placement.same_domain, value=picture.domain)


def chosen(picture: GroupPicture) -> Note | None:
    """Said when the domain is another than before; None while it stays."""
    placement, present = picture.group.spec.placement, picture.group.domain
    if placement is None or not picture.domain or picture.domain == present:
        return None
    instead = f" instead of {present}" if present else ""
    text = f"all replicas get their devices in {placement.same_domain} {picture.domain}{instead}"
    return Note("DomainChosen", text)


def words(picture: GroupPicture) -> str:
    """Where new replicas have to be, and what follows, for people; empty where they may be anywhere."""
    placement = picture.group.spec.placement
    if placement is None or not picture.domain:
        return ""
    return (
        f" in {placement.same_domain} {picture.domain}, where the group's replicas are (another is chosen only while"
        " none serves)"
    )


def without_node(picture: GroupPicture) -> Finding | None:
    """Said where roles have plain pods, of which no domain is known; None where all have nodes."""
    placement = picture.group.spec.placement
    bare = sorted(name for name, role in picture.roles.items() if role.spec.node is None)
    if placement is None or not bare:
        return None
    text = (
        f"spec.placement.sameDomain has no effect on role {bare[0]}, which has no node: give it one, or remove"
        " the field"
    )
    return Finding(False, "PlacementIgnored", text)

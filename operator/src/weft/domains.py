"""One interconnect domain for all replicas of a group: what balancing asks of placement, and what placement answers.

Balancing knows nothing of devices, placement nothing of groups: this is all that they tell each other. Pure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from weft.cluster import Object
from weft.controllers import Now


@dataclass(frozen=True)
class DomainQuestion:
    """Which domain has room for all of a group's logical nodes together?"""

    namespace: str
    group: str
    attribute: str
    """Device attribute that all accelerators are to have one value of: rdmaDomain."""
    present: str
    """The value that was chosen before; empty: none."""
    nodes: Mapping[str, Object]
    """The spec of each logical node that the group is to have, by name, without a domain; some are there already."""
    waits_since: datetime | None = None
    """Since when it waits; None: it wants no place in the queue, as it serves already."""
    settled: bool = False
    """It stays where it is, and may have nothing: of what is kept for it only what `nodes` lack there is needed."""


@dataclass(frozen=True)
class DomainAnswer:
    """A value of the attribute; or an empty one, and a sentence that says what is missing."""

    domain: str
    message: str = ""


WAITING = "WaitingForDomain"
"""Reason of the condition Balanced of a group that waits for its domain."""


def waiting_groups(groups: Iterable[Object]) -> Iterator[tuple[str, str]]:
    """Namespace and name of the InferenceGroups whose status says that they wait for a domain."""
    for raw in groups:
        conditions = raw.get("status", {}).get("conditions", ())
        if any(one["type"] == "Balanced" and one["reason"] == WAITING for one in conditions):
            yield raw["metadata"]["namespace"], raw["metadata"]["name"]


ChooseDomain = Callable[[DomainQuestion, Now], Awaitable[DomainAnswer]]


def domain_words(attribute: str, domain: str) -> str:
    """A domain in one word: rdmaDomain=ib-0."""
    return f"{attribute}={domain}"


def in_domain(spec: Object, attribute: str, domain: str) -> Object:
    """The spec of a LogicalNode of which every accelerator has to be in this domain. The argument stays as it is."""
    return {
        **spec,
        "accelerators": [dict(_narrowed(each, attribute, domain)) for each in spec.get("accelerators", ())],
    }


def _narrowed(request: Object, attribute: str, domain: str) -> Iterator[tuple[str, Any]]:
    others = request.get("firstAvailable") or ()
    yield from request.items()
    if others:
        narrowed = [{**one, "selector": _selector(one, attribute, domain)} for one in others]
        yield "firstAvailable", narrowed
    else:
        yield "selector", _selector(request, attribute, domain)


def _selector(of: Object, attribute: str, domain: str) -> Object:
    selector = of.get("selector") or {}
    equal = selector.get("matchAttributes") or {}
    if equal.get(attribute, domain) == domain:
        return {**selector, "matchAttributes": {**equal, attribute: domain}}
    # What the role asks for is not overruled: both have to hold, so that nothing is taken.
    both = {"key": attribute, "operator": "In", "values": [domain]}
    return {**selector, "matchExpressions": [*(selector.get("matchExpressions") or ()), both]}

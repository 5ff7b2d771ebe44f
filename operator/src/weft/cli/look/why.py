"""`weft why OBJECT`: what it is waiting for or why it is as it is, what that means, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from weft.api import Condition, Decision, InferenceGroup, RoleAllocation
from weft.api.reasons.declared import NOTHING
from weft.api.resources import GROUP, INFERENCE_GROUPS
from weft.cli.look.pause import held
from weft.cli.look.reading import AskError, Reading, Ref, moment_of
from weft.cli.look.tree import tree_of
from weft.cli.look.unblock import First, first_step
from weft.cli.look.words import UNREADABLE, age, as_hoped, declared, indented
from weft.cluster import Object

LAST_EVENTS = 10


@dataclass(frozen=True)
class Said:
    """One condition, with what its declaration says."""

    type: str
    status: str
    reason: str
    message: str
    since: datetime
    as_hoped: bool
    outdated: bool
    """It was said about an earlier spec."""
    means: str
    do: str


@dataclass(frozen=True)
class Chosen:
    """A decision about a split."""

    at: datetime
    before: str
    after: str
    because: tuple[str, ...]
    instead: tuple[str, ...]
    """The next best, and what each would have cost or missed."""
    recommended: bool
    """In the mode Recommend: nothing was moved."""


@dataclass(frozen=True)
class Happened:
    """One event."""

    at: str
    type: str
    reason: str
    message: str
    times: int


@dataclass(frozen=True)
class Why:
    """The whole answer."""

    what: str
    created: str
    leaves: str
    """Since when it is being deleted; empty while it is not."""
    held: tuple[str, ...]
    """What its spec keeps it from, and who else keeps it from going."""
    first: First | None
    """What to do first; None: nothing, as far as conditions say."""
    conditions: tuple[Said, ...]
    """Those that are not as hoped first, and of these the cause."""
    decisions: tuple[Chosen, ...]
    below: tuple[str, ...]
    """What below it is not as hoped, with the reason."""
    events: tuple[Happened, ...]
    denied: tuple[str, ...]
    unreadable: tuple[str, ...]
    nobody_leads: str
    """Why no operator leads; empty where one does, or it is not known."""


def why_of(reading: Reading, ref: Ref, events: list[Object]) -> Why:
    """The answer about one object. Pure. Raises AskError where there is no such object."""
    found = reading.find(ref)
    if found is None:
        raise AskError(f"there is no {ref}, or no right to see it")
    generation = generation_of(found["metadata"])
    conditions = tuple(Condition.model_validate(one) for one in found.get("status", {}).get("conditions", ()))
    first = first_step(reading, ref)
    cause = first.condition.partition("=")[0] if first is not None and first.what == str(ref) else ""
    said = sorted(
        (said_of(ref.resource.kind, one, generation) for one in conditions),
        key=lambda one: (one.as_hoped, one.type != cause),
    )
    if first is not None and cause:
        # What is to be done is said in one way: that which names this object, or those on which it depends.
        said = [replace(one, do=first.do) if one.do == said[0].do else one for one in said]
    return Why(
        what=str(ref),
        created=found["metadata"].get("creationTimestamp", ""),
        leaves=found["metadata"].get("deletionTimestamp", ""),
        held=(*held(ref, found), *_kept_by_others(found["metadata"])),
        first=first,
        conditions=tuple(said),
        decisions=next(
            (
                decisions(one)
                for one in reading.groups
                if ref == Ref(INFERENCE_GROUPS, one.metadata.name, one.metadata.namespace)
            ),
            (),
        ),
        below=_below(reading, ref),
        events=tuple(happened(one) for one in _of_this(found, events)[-LAST_EVENTS:]),
        denied=reading.denied,
        unreadable=reading.unreadable,
        nobody_leads=reading.nobody_leads,
    )


def _kept_by_others(metadata: Object) -> tuple[str, ...]:
    """Finalizers that Weft does not know: no condition tells of them, and Weft waits for none."""
    finalizers = metadata.get("finalizers", ())
    others = [one for one in finalizers if "/" in one and not one.startswith(f"{GROUP}/")]
    if "deletionTimestamp" not in metadata or not others:
        return ()
    return (f"kept by finalizers that are not Weft's: {', '.join(others)}; whoever set them takes them off",)


def generation_of(metadata: Object) -> int:
    """The generation of what the owner asks for: the API server counts a deletion as a change of the spec."""
    return int(metadata.get("generation", 0)) - ("deletionTimestamp" in metadata)


def said_of(kind: str, condition: Condition, generation: int) -> Said:
    """A condition of an object of this kind and generation, with what its declaration says. Pure."""
    _, reason = declared(kind, condition)
    do = reason.action if reason is not None and reason.action != NOTHING else ""
    return Said(
        condition.type,
        condition.status,
        condition.reason,
        condition.message,
        condition.last_transition_time,
        as_hoped(kind, condition),
        condition.observed_generation < generation,
        reason.meaning if reason is not None else "",
        do,
    )


def decisions(group: InferenceGroup) -> tuple[Chosen, ...]:
    """What is recommended, and what was decided last. Pure."""
    status = group.status
    chosen = []
    if status.recommendation is not None:
        chosen.append(
            _chosen(status.recommendation, _words(status.recommendation.allocation), recommended=True)
        )
    if status.decision is not None:
        chosen.append(_chosen(status.decision, _words(status.allocation), recommended=False))
    return tuple(chosen)


def _words(allocation: Iterable[RoleAllocation]) -> str:
    return ", ".join(f"{one.role} {one.replicas}" for one in allocation)


def _chosen(decision: Decision, after: str, *, recommended: bool) -> Chosen:
    return Chosen(
        decision.decision_time,
        _words(decision.previous or ()),
        after,
        tuple(decision.reason.split("; ")),
        tuple(f"{_words(one.allocation)}: {one.reason}" for one in decision.alternatives),
        recommended,
    )


def _of_this(found: Object, events: Iterable[Object]) -> list[Object]:
    """The events of this object, and not of an earlier one of its name."""
    uid = found["metadata"].get("uid")
    return [one for one in events if one.get("regarding", {}).get("uid", uid) == uid]


def _below(reading: Reading, ref: Ref) -> tuple[str, ...]:
    """Where the trouble sits that the object itself only counts."""
    try:
        root = tree_of(reading, ref)
    except AskError:
        return ()
    lines = []
    waiting = list(root.children)
    while waiting:
        branch = waiting.pop(0)
        if branch.state:
            lines.append(f"{branch.text}: {branch.state}")
        waiting = [*branch.children, *waiting]
    return tuple(lines)


def happened(event: Object) -> Happened:
    """An event as it is told. Pure."""
    series = event.get("series") or {}
    return Happened(
        moment_of(event),
        event.get("type", ""),
        event.get("reason", ""),
        event.get("note", ""),
        series.get("count") or event.get("deprecatedCount") or 1,
    )


def shown(why: Why, now: datetime) -> RenderableType:
    """The answer for a terminal."""
    created = _ago(why.created, now)
    head = f"{why.what}{f', made {created}' if created else ''}"
    if why.leaves:
        head += f", deleted {_ago(why.leaves, now)} and not gone yet"
    parts: list[RenderableType] = [Text(head, style="bold")]
    parts += [indented(one, 2, "yellow") for one in (why.nobody_leads, *why.held) if one]
    parts += shown_first(why)
    if not why.conditions:
        parts.append(
            Text("no condition yet: either nothing is to be said of it, or the operator does not run")
        )
    told = (why.first.message, f"do: {why.first.do}") if why.first is not None else ()
    parts += shown_conditions(why.conditions, now, told)
    for decision in why.decisions:
        title = "recommended" if decision.recommended else "decided"
        way = f"from {decision.before} to {decision.after}" if decision.before else decision.after
        parts += [Text(), Text(f"{title} {age(decision.at, now)} ago: {way}", style="bold")]
        parts += [indented(f"because {decision.because[0]}", 2)]
        parts += [indented(one, 10) for one in decision.because[1:]]
        parts += [indented(f"instead of {one}", 2) for one in decision.instead]
    if why.below:
        parts += [Text(), Text("below it", style="bold")]
        parts += [indented(one, 2, "yellow") for one in why.below]
    if why.events:
        parts += [Text(), Text("events", style="bold"), *shown_events(why.events, now)]
    if why.denied:
        parts += [Text(), Text(f"not looked at, for want of the right: {', '.join(why.denied)}")]
    if why.unreadable:
        parts += [Text(), Text(UNREADABLE), *(Text(f"  {one}") for one in why.unreadable)]
    return Group(*parts)


def shown_first(why: Why) -> list[RenderableType]:
    """What to do first for a terminal, and why."""
    if why.first is None:
        return []
    whose = "" if why.first.what == why.what else f"{why.first.what}: "
    if why.first.likewise:
        whose = f"{why.first.what} (and {why.first.likewise} like it): "
    cause = ": ".join(filter(None, (f"{whose}{why.first.condition}", why.first.message)))
    return [indented(f"do first: {why.first.do}", 2, "bold"), indented(cause, 12)]


def shown_conditions(
    conditions: Iterable[Said], now: datetime, told: Iterable[str] = ()
) -> list[RenderableType]:
    """Conditions for a terminal; of those that are not as hoped also what they mean and what to do.

    `told`: lines that stand above already.
    """
    parts: list[RenderableType] = []
    said = set(told)
    for one in conditions:
        style = "green" if one.as_hoped else "yellow"
        # A status may have had other reasons since.
        line = Text.assemble(
            (f"{one.type}={one.status} {one.reason}", style), f", {one.status} for {age(one.since, now)}"
        )
        parts.append(indented(line, 2))
        details = [one.message]
        if not one.as_hoped:
            details += [f"means: {one.means}" if one.means else "", f"do: {one.do}" if one.do else ""]
        if one.outdated:
            details.append("said before the last change of the spec: wait for the operator to look again")
        # Several conditions are false for one reason: it is told once.
        parts += [indented(detail, 6) for detail in details if detail and detail not in said]
        said.update(details)
    return parts


def shown_events(events: Iterable[Happened], now: datetime) -> list[RenderableType]:
    """Events for a terminal, each with how long ago it was seen last."""
    parts: list[RenderableType] = []
    for event in events:
        times = f" ({event.times} times)" if event.times > 1 else ""
        text = f"{_ago(event.at, now):>16}  {event.type} {event.reason}: {event.message}{times}"
        parts.append(indented(text, 2, "yellow" if event.type == "Warning" else ""))
    return parts


def _ago(moment: str, now: datetime) -> str:
    return f"{age(datetime.fromisoformat(moment), now)} ago" if moment else ""

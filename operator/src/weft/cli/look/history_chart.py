"""A group's history as a small chart, with a table that says the same."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import pairwise

from weft.cli.look.history import Span
from weft.cli.look.markup import Html, element, joined, table
from weft.cli.look.words import age

WIDTH, HEIGHT, STRIP = 1000, 40, 8
"""Units of the drawing: replicas above, objectives in a strip below."""
STAGES = ("Encode", "Prefill", "Aggregated", "Decode")
"""From the bottom up."""
OBJECTIVES = {"True": "met", "False": "missed"}
SHORTEST_SECONDS = 10.0

STYLE = """
:root { --encode: #7c3aed; --prefill: #b45309; --aggregated: #64748b; --decode: #2563eb;
  --met: #15803d; --missed: #dc2626; }
@media (prefers-color-scheme: dark) { :root { --encode: #a78bfa; --prefill: #f59e0b;
  --aggregated: #94a3b8; --decode: #60a5fa; --met: #22c55e; --missed: #f87171; } }
.past { shape-rendering: crispEdges; display: block; width: 16rem; height: 3.4rem;
  margin-top: .4rem; border-bottom: 1px solid var(--line); }
.decided { fill: var(--ink); } td table { font-size: .85rem; }
.encode { fill: var(--encode); } .prefill { fill: var(--prefill); }
.aggregated { fill: var(--aggregated); } .decode { fill: var(--decode); }
.met { fill: var(--met); } .missed { fill: var(--missed); }
"""


def drawn(spans: tuple[Span, ...], group: str) -> Html:
    """The chart and its table; nothing until there is a stretch of time to draw. Pure."""
    if not spans or _seconds(spans) < SHORTEST_SECONDS:
        return Html()
    first, last = spans[0], spans[-1]
    since = f"{_words(first)} at first, {_words(last)} now"
    label = f"Replicas of {group} that serve, over the last {age(first.since, last.until)}: {since}"
    key = f"past-{group}"
    told = table(
        f"Read of {group} while this page was open",
        ("From, to (UTC)", "Serving", "Objectives", "Last decision"),
        [
            (
                f"{one.since:%H:%M:%S} to {one.until:%H:%M:%S}",
                _words(one),
                OBJECTIVES.get(one.objectives, "not known"),
                one.decision or "none yet",
            )
            for one in reversed(spans)
        ],
    )
    return joined(
        (
            Html(
                f'<svg class="past" viewBox="0 0 {WIDTH} {HEIGHT + STRIP}" preserveAspectRatio="none" role="img"'
                f' aria-label="{escape(label)}">{"".join(_parts(spans))}</svg>'
            ),
            element(
                "details",
                element("summary", f"the last {age(first.since, last.until)}", id=f"{key}-more"),
                element("p", *_keys(), class_="soft"),
                told,
                id=key,
            ),
        )
    )


def _seconds(spans: tuple[Span, ...]) -> float:
    return (spans[-1].until - spans[0].since).total_seconds()


def _words(span: Span) -> str:
    return ", ".join(f"{role} {count}" for role, _, count in span.serving) or "no role"


def _parts(spans: tuple[Span, ...]) -> Iterable[str]:
    begin, scale = spans[0].since, WIDTH / _seconds(spans)
    most = max(1, *(sum(count for _, _, count in one.serving) for one in spans))
    for one in spans:
        left = (one.since - begin).total_seconds() * scale
        place = f'x="{left:.1f}" width="{(one.until - one.since).total_seconds() * scale:.1f}"'
        base = 0
        for _, stage, count in sorted(one.serving, key=lambda each: STAGES.index(each[1])):
            base += count
            y, height = HEIGHT * (1 - base / most), HEIGHT * count / most
            yield f'<rect class="{stage.lower()}" {place} y="{y:.1f}" height="{height:.1f}"/>'
        # Missed is twice as high as met: colour alone says nothing.
        if state := OBJECTIVES.get(one.objectives):
            height = STRIP - 1 if state == "missed" else STRIP / 2 - 1
            yield f'<rect class="{state}" {place} y="{HEIGHT + STRIP - height:.1f}" height="{height:.1f}"/>'
    for before, after in pairwise(spans):
        if after.decision and after.decision != before.decision:
            x = (after.since - begin).total_seconds() * scale
            told = element("title", f"{after.since:%H:%M:%S} {after.decision}")
            yield f'<g class="decided">{told}<rect x="{x - 3:.1f}" width="6" y="0" height="{HEIGHT}"/></g>'


def _keys() -> Iterable[str]:
    for name, text in (
        *((stage.lower(), stage.lower()) for stage in STAGES),
        ("decided", "a decision"),
        ("met", "objectives met"),
        ("missed", "missed"),
    ):
        rect = f'<rect class="{name}" width="1" height="1"/>'
        yield Html(f'<svg class="key" viewBox="0 0 1 1" aria-hidden="true">{rect}</svg>')
        yield f"{text} "

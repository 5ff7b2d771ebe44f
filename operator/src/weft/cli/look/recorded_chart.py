"""A group's traffic, need, replicas and objectives over time as small charts, with a table that says the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from html import escape

from weft.balancing.load import BETWEEN_TOKENS, FIRST_TOKEN
from weft.cli.look.markup import Html, element, joined, table
from weft.cli.look.recorded import POINTS, GroupRecord, Line, Records

HEIGHT, TOP = 100, 96
"""Units of a lane's drawing, and of its highest value; its width is in points, each as of its right edge."""
STAGES = ("Encode", "Prefill", "Aggregated", "Decode")
OBJECTIVES = {FIRST_TOKEN: "first token", BETWEEN_TOKENS: "between tokens"}
MET = {1.0: "met", 0.0: "missed"}
TABLE_POINTS = 5
"""Every so many points are a row."""
SAME_SECONDS = 1.0
"""A decision's time is told in whole seconds by one, and in fractions by the other."""

STYLE = """
:root { --traffic: #0f766e; } @media (prefers-color-scheme: dark) { :root { --traffic: #2dd4bf; } }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 36rem), 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .8rem; min-width: 0; }
.card h3 { margin: 0 0 .3rem; font-size: 1rem; overflow-wrap: anywhere; }
.lane { display: grid; grid-template-columns: 7.5rem 1fr 11.5rem; gap: .7rem; align-items: center; margin: .15rem 0; }
.lane svg { width: 100%; height: 2.4rem; border-bottom: 1px solid var(--line); display: block; }
.lane .strip { height: .8rem; } .lane.axis { color: var(--soft); }
.axis span { display: flex; justify-content: space-between; }
.area { opacity: .55; } .traffic { fill: var(--traffic); }
.need { fill: none; stroke: var(--ink); stroke-width: 2px; vector-effect: non-scaling-stroke; }
.mark { stroke: var(--ink); stroke-width: 1px; vector-effect: non-scaling-stroke; stroke-dasharray: 3 2; }
@media (max-width: 40rem) { .lane { grid-template-columns: 1fr; gap: 0; } }
"""


def cards(records: Records, groups: Mapping[tuple[str, str], tuple[float, str]]) -> Html:
    """A card for each group (namespace, name), with when its last decision was made (Unix time), and why. Pure."""
    return element(
        "div", *(_card(records, key, *decision) for key, decision in groups.items()), class_="cards"
    )


def _card(records: Records, key: tuple[str, str], decided: float, because: str) -> Html:
    name = "/".join(key)
    record = records.groups.get(key)
    if record is None:
        return element(
            "div", element("h3", name), element("p", "nothing recorded", class_="soft"), class_="card"
        )
    marks = Html("".join(_marks(records, record, decided, because)))
    lanes = [
        *(
            _stage(stage, record, marks, name)
            for stage in STAGES
            if stage in {*record.serving, *record.needed}
        ),
        _rate("Requests", record.requests, marks, name),
        _rate("Prompt tokens", record.tokens.get("prompts", {}), marks, name),
        _rate("Answer tokens", record.tokens.get("answers", {}), marks, name),
        _objectives(record, name),
    ]
    begin, end = (_moment(records, n) for n in (-1, POINTS - 1))
    axis = element(
        "div",
        element("span", ""),
        element("span", element("span", f"{begin:%H:%M:%S}"), element("span", f"{end:%H:%M:%S} UTC")),
        class_="lane axis",
    )
    more = element(
        "details",
        element("summary", "as a table", id=f"recorded-{name}-more", aria_label=f"{name} as a table"),
        _table(records, record, name),
        id=f"recorded-{name}",
    )
    return element("div", element("h3", name), *lanes, axis, more, class_="card")


def _stage(stage: str, record: GroupRecord, marks: Html, group: str) -> Html:
    serving, needed = record.serving.get(stage, {}), record.needed.get(stage, {})
    top = max(1.0, *serving.values(), *needed.values(), 1.0)
    drawn = joined((_area(serving, top, f"area {stage.lower()}"), _path(needed, top), marks))
    told = _last(serving, ".0f", " serve") + (f", {_last(needed, '.1f', ' needed')}" if needed else "")
    label = f"Replicas of {group} for {stage.lower()}: {_course(serving, '.0f')} serve"
    label += f"; {_course(needed, '.1f')} needed" if needed else ""
    return _lane(stage, drawn, label, told)


def _rate(what: str, line: Line, marks: Html, group: str) -> Html:
    top = max([*line.values(), 1e-9])
    digits = ",.1f" if top < 100 else ",.0f"
    told = f"{_last(line, digits, '/s')}, up to {top:{digits}}" if line else "not known"
    label = f"{what} of {group}: {_course(line, digits)} a second"
    return _lane(what, joined((_area(line, top, "area traffic"), marks)), label, told)


def _objectives(record: GroupRecord, group: str) -> Html:
    told = ", ".join(
        f"{words} {_last(record.within[one], '.1%')}"
        for one, words in OBJECTIVES.items()
        if one in record.within
    )
    # Missed is higher than met: colour alone says nothing.
    drawn = joined(
        _area({n: height for n, value in record.met.items() if value == of}, 1.0, state)
        for of, state, height in ((1.0, "met", 0.5), (0.0, "missed", 1.0))
    )
    missed = sum(value == 0.0 for value in record.met.values())
    label = f"Objectives of {group}: missed in {missed} of {len(record.met)} moments"
    return _lane("Objectives", drawn, label, told or "not known", "strip")


def _lane(what: str, drawn: Html, label: str, told: str, kind: str = "") -> Html:
    svg = Html(
        f'<svg class="{kind}" viewBox="0 0 {POINTS} {HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(label)}">{drawn}</svg>'
    )
    return element("div", element("span", what), svg, element("span", told, class_="soft"), class_="lane")


def _area(line: Line, top: float, kind: str) -> Html:
    """Each point is as wide as its step; equal ones that follow each other are one."""
    parts: list[list[int]] = []
    for n in sorted(line):
        if parts and parts[-1][0] + parts[-1][1] == n and line[parts[-1][0]] == line[n]:
            parts[-1][1] += 1
        else:
            parts.append([n, 1])
    path = "".join(f"M{n} {HEIGHT}V{_y(line[n], top)}h{width}V{HEIGHT}" for n, width in parts if line[n] > 0)
    return Html(f'<path class="{kind}" d="{path}"/>') if path else Html()


def _y(value: float, top: float) -> int:
    return round(HEIGHT - TOP * value / top)


def _path(line: Line, top: float) -> Html:
    path = "".join(f"{'L' if n - 1 in line else 'M'}{n} {_y(line[n], top)}h1" for n in sorted(line))
    return Html(f'<path class="need" d="{path}"/>') if path else Html()


def _marks(records: Records, record: GroupRecord, decided: float, because: str) -> Iterable[str]:
    for at in record.decided:
        x = (at - records.begin) / records.step + 1
        why = because if abs(at - decided) < SAME_SECONDS else ""
        moment = datetime.fromtimestamp(at, UTC)
        told = element("title", f"decided at {moment:%H:%M:%S}{': ' if why else ''}{why}")
        yield f'<g>{told}<path class="mark" d="M{x:.2f} 0V{HEIGHT}"/></g>'


def _table(records: Records, record: GroupRecord, group: str) -> Html:
    stages = [stage for stage in STAGES if stage in {*record.serving, *record.needed}]
    columns = [
        "Until (UTC)",
        *(f"{stage}{what}" for stage in stages for what in ("", " needed")),
        *("Requests a second", "Prompt tokens a second", "Answer tokens a second", "Objectives"),
    ]
    rows = []
    for n in range(POINTS - 1, -1, -TABLE_POINTS):
        cells = [f"{_moment(records, n):%H:%M:%S}"]
        for stage in stages:
            cells += [
                _cell(record.serving.get(stage, {}), n, ".0f"),
                _cell(record.needed.get(stage, {}), n, ".1f"),
            ]
        cells += [_cell(record.requests, n, ".1f")]
        cells += [_cell(record.tokens.get(of, {}), n, ",.0f") for of in ("prompts", "answers")]
        rows.append((*cells, MET.get(record.met.get(n, -1.0), "not known")))
    return table(f"Recorded of {group}", columns, rows)


def _moment(records: Records, point: int) -> datetime:
    return datetime.fromtimestamp(records.begin, UTC) + timedelta(seconds=point * records.step)


def _cell(line: Line, point: int, digits: str) -> str:
    return f"{line[point]:{digits}}" if point in line else "-"


def _last(line: Line, digits: str, what: str = "") -> str:
    """The value of now, with what it counts; what ended before is not known."""
    newest = max(line, default=-1)
    return f"{line[newest]:{digits}}{what}" if newest >= POINTS - 2 else "not known now"


def _course(line: Line, digits: str) -> str:
    return f"{line[min(line)]:{digits}} at first, {_last(line, digits)} now" if line else "not known"

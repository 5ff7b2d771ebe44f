"""A report as one HTML file that refers to nothing outside itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from weft.rehearse.play import Case
from weft.rehearse.summary import paid_columns, verdict
from weft.rehearse.world import AGGREGATES, DECODES, PREFILLS

WIDTH, HEIGHT, LEFT, BOTTOM = 960, 130, 56, 18
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#64748b")
ROLE_COLOURS = {PREFILLS: "#f59e0b", AGGREGATES: "#a3a3a3", DECODES: "#3b82f6"}

TICKS = (1, 2, 5, 10, 20, 30, 60, 120, 240, 480, 1000, 10_000)

STYLE = """
:root { color-scheme: light; --ink: #1e293b; --soft: #64748b; --line: #e2e8f0; }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); margin: 2rem auto; max-width: 1020px;
  padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
.verdict { background: #f1f5f9; border-left: 4px solid #2563eb; padding: .6rem .9rem; margin: .9rem 0; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0; } th, td { padding: .28rem .6rem; text-align: right; }
th { font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
svg { width: 100%; height: auto; display: block; overflow: visible; } svg text { font-size: 11px; fill: var(--soft); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 .9em;
  vertical-align: -1px; } td .key { margin-left: 0; } td { white-space: nowrap; }
.decision { cursor: pointer; } .decision circle { fill: #fff; stroke: #0f172a; stroke-width: 1.6; }
.decision:hover circle, .decision:focus circle { fill: #0f172a; } .decision:focus { outline: none; }
#tip { position: fixed; display: none; max-width: 460px; background: #0f172a; color: #f8fafc; padding: .55rem .75rem;
  border-radius: 6px; font-size: 12.5px; pointer-events: none; white-space: pre-line; z-index: 1; }
"""
SCRIPT = """
const tip = document.getElementById('tip');
function show(mark, x, y) {
  tip.textContent = mark.dataset.tip;
  tip.style.display = 'block';
  tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - tip.offsetWidth - 8)) + 'px';
  tip.style.top = Math.max(8, Math.min(y + 14, innerHeight - tip.offsetHeight - 8)) + 'px';
}
for (const mark of document.querySelectorAll('.decision')) {
  mark.addEventListener('mousemove', event => show(mark, event.clientX, event.clientY));
  mark.addEventListener('mouseleave', () => { tip.style.display = 'none'; });
  mark.addEventListener('focus', () => {
    const box = mark.getBoundingClientRect();
    show(mark, box.right, box.bottom);
  });
  mark.addEventListener('blur', () => { tip.style.display = 'none'; });
}
"""


def page(
    title: str, case: Case, rows: Sequence[dict[str, Any]], courses: Mapping[str, dict[str, Any]]
) -> str:
    """The whole report: figures, traffic, and for each policy its split, size and latencies over time."""
    seconds = max(case.trace.seconds, 1e-9)
    objectives = case.objectives
    names = [row["policy"] for row in rows]
    colours = dict(zip(names, _cycle(COLOURS, len(names)), strict=True))
    first = courses[names[0]]

    def lines(field: str, factor: float = 1.0) -> list[tuple[str, list[tuple[float, float | None]]]]:
        return [(colours[name], _series(courses[name], field, factor)) for name in names]

    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_case_line(case))}</p>',
        f'<div class="verdict">{"".join(f"<p>{escape(each)}</p>" for each in verdict(rows))}</div>',
        _table(rows, colours),
        "<h2>Traffic</h2>",
        _keys([("prompt tokens/s", "#f59e0b"), ("answer tokens/s", "#3b82f6")]),
        _chart(
            seconds,
            [
                ("#f59e0b", _series(first, "promptTokensPerSecond")),
                ("#3b82f6", _series(first, "answerTokensPerSecond")),
            ],
        ),
        "<h2>Within both objectives</h2>",
        _keys(colours.items()),
        _chart(seconds, lines("attainment", 100.0), top=100.0, unit=" %", limit=100 * objectives.attainment),
        "<h2>Time to first token, 90th percentile</h2>",
        _chart(seconds, lines("ttftP90"), unit=" s", limit=objectives.ttft_seconds, cut=4.0),
        "<h2>Time between tokens, 90th percentile</h2>",
        _chart(seconds, lines("itlP90", 1000.0), unit=" ms", limit=1000 * objectives.itl_seconds, cut=4.0),
    ]
    for name in names:
        count = len(courses[name]["decisions"])
        parts.append(f"<h2>{escape(name)}: replicas</h2>")
        parts.append(
            _keys(
                [*ROLE_COLOURS.items(), ("held, starting and draining included", "#0f172a")],
                f"{count} decisions, each with its reason" if count else "nothing is decided",
            )
        )
        parts.append(_replicas(seconds, courses[name], case.most_replicas))
    body = "\n".join(parts)
    data = json.dumps({"policies": list(rows), "courses": dict(courses)}).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n{body}\n'
        f'<div id="tip" role="tooltip"></div><script type="application/json" id="figures">{data}</script>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _case_line(case: Case) -> str:
    trace, objectives = case.trace, case.objectives
    promises = [f"{objectives.attainment * 100:g} % within"]
    if objectives.ttft_seconds < math.inf:
        promises.append(f"{objectives.ttft_seconds:g} s to the first token")
    if objectives.itl_seconds < math.inf:
        promises.append(f"{objectives.itl_seconds * 1000:g} ms between tokens")
    sizes = sorted({case.least_replicas, case.most_replicas})
    return (
        f"{len(trace):,} requests in {trace.seconds / 3600:.2f} h; {' to '.join(map(str, sizes))} replicas of"
        f" {case.accelerators_per_replica}; {', '.join(promises)}; scraped every {case.scrape_seconds:g} s; flips"
        f" {'overlap' if case.overlap else 'drain'} and take {case.flip_seconds:g} s; cold start"
        f" {case.cold_start_seconds:g} s; seed {case.seed}"
    )


def _cycle(colours: Sequence[str], count: int) -> list[str]:
    return [colours[i % len(colours)] for i in range(count)]


def _keys(keys: Iterable[tuple[str, str]], note: str = "") -> str:
    spans = "".join(
        f'<span class="key" style="background:{colour}"></span>{escape(name)}' for name, colour in keys
    )
    return f'<p class="soft">{spans}{f"<span>&emsp;{escape(note)}</span>" if note else ""}</p>'


def _table(rows: Sequence[dict[str, Any]], colours: Mapping[str, str]) -> str:
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("first split", lambda row: row["first"]),
        ("within objectives", lambda row: f"{row['attainment'] * 100:.1f} %"),
        ("TTFT p50 / p99", lambda row: _pair(row["ttftSeconds"], 1.0, "s", 2)),
        ("ITL p50 / p99", lambda row: _pair(row["itlSeconds"], 1000.0, "ms", 1)),
        ("accelerator-hours", lambda row: f"{row['acceleratorHours']:.2f}"),
        ("good per acc.-hour", lambda row: _known(row["goodputPerAcceleratorHour"], "{:,.0f}")),
        ("moves", lambda row: str(row["flips"] + row["made"] + row["removed"])),
    ]
    columns += [(head, partial(_figure, field)) for head, field in paid_columns(rows)]
    head = "".join(f"<th>{escape(name)}</th>" for name, _ in (("policy", None), *columns))
    body = "".join(
        f'<tr><td><span class="key" style="background:{colours[row["policy"]]}"></span>{escape(row["policy"])}</td>'
        + "".join(f"<td>{escape(text(row))}</td>" for _, text in columns)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(field: str, row: dict[str, Any]) -> str:
    return _known(row[field], "{:.2f}")


def _pair(values: Mapping[str, float | None], factor: float, unit: str, digits: int) -> str:
    low, high = values["p50"], values["p99"]
    if low is None or high is None:
        return "-"
    return f"{low * factor:.{digits}f} / {high * factor:.{digits}f} {unit}"


def _known(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _series(course: Mapping[str, Any], field: str, factor: float = 1.0) -> list[tuple[float, float | None]]:
    half = course["binSeconds"] / 2
    return [
        (each["atSeconds"] + half, None if each[field] is None else each[field] * factor)
        for each in course["bins"]
    ]


def _x(at: float, seconds: float) -> float:
    return LEFT + (WIDTH - LEFT) * min(1.0, at / seconds)


def _chart(
    seconds: float,
    lines: Sequence[tuple[str, Sequence[tuple[float, float | None]]]],
    top: float | None = None,
    unit: str = "",
    limit: float = math.inf,
    cut: float = math.inf,
) -> str:
    """Lines over time; `limit` is drawn across where it is finite, and nothing is drawn beyond `cut` times of it."""
    values = [value for _, line in lines for _, value in line if value is not None]
    highest = top if top is not None else max([*values, 1e-9])
    if limit < math.inf and top is None:
        highest = min(max(highest, 1.1 * limit), cut * limit)
    parts = [_frame(seconds, highest, unit)]
    if limit < math.inf:
        y = HEIGHT * (1 - limit / highest)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#0f172a" stroke-dasharray="5 4"/>'
        )
    for colour, line in lines:
        path, pen = [], "M"
        for at, value in line:
            if value is None:
                pen = "M"
                continue
            y = HEIGHT * (1 - min(1.0, value / highest))
            path.append(f"{pen}{_x(at, seconds):.1f} {y:.1f}")
            pen = "L"
        parts.append(f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return _svg(parts)


def _replicas(seconds: float, course: Mapping[str, Any], most: int) -> str:
    """Serving replicas per role, one upon the other, what is held, and a mark for each decision."""
    sizes = [each for each in course["sizes"] if each["atSeconds"] <= seconds]
    parts = [_frame(seconds, most, "")]
    held: list[str] = []
    for one, following in zip(sizes, [*sizes[1:], {"atSeconds": seconds}], strict=True):
        left, right = _x(one["atSeconds"], seconds), _x(following["atSeconds"], seconds)
        base = 0
        for role, colour in ROLE_COLOURS.items():
            count = one["serving"].get(role, 0)
            if count:
                y, height = HEIGHT * (1 - (base + count) / most), HEIGHT * count / most
                parts.append(
                    f'<rect x="{left:.1f}" y="{y:.1f}" width="{right - left:.1f}" height="{height:.1f}"'
                    f' fill="{colour}" fill-opacity="0.75"/>'
                )
            base += count
        y = HEIGHT * (1 - min(1.0, one["held"] / most))
        held.append(f"{'L' if held else 'M'}{left:.1f} {y:.1f}L{right:.1f} {y:.1f}")
    parts.append(f'<path d="{"".join(held)}" fill="none" stroke="#0f172a" stroke-width="1.2"/>')
    for one in course["decisions"]:
        x = _x(one["atSeconds"], seconds)
        lines = [f"{one['atSeconds']:,.0f} s: {one['split']}", one["reason"].replace("; ", "\n")]
        lines += [f"else {each}" for each in one["alternatives"]]
        text = escape("\n".join(lines), quote=True)
        parts.append(
            f'<g class="decision" tabindex="0" data-tip="{text}"><line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"'
            f' stroke="#0f172a" stroke-opacity="0.35"/><circle cx="{x:.1f}" cy="0" r="4.5"/></g>'
        )
    return _svg(parts)


def _frame(seconds: float, highest: float, unit: str) -> str:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = HEIGHT * (1 - share)
        value = highest * share
        text = f"{value:,.0f}" if highest >= 20 or value == int(value) else f"{value:.2g}"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}" stroke="#e2e8f0"/>'
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{text}{unit}</text>'
        )
    unit_seconds, name = (3600.0, "h") if seconds > 3 * 3600 else (60.0, "min")
    step = next(each for each in TICKS if seconds / unit_seconds / each <= 12)
    for i in range(int(seconds / unit_seconds / step) + 1):
        x = _x(i * step * unit_seconds, seconds)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + 14}" text-anchor="middle">{i * step:g} {name}</text>')
    return "".join(parts)


def _svg(parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 -8 {WIDTH} {HEIGHT + BOTTOM + 8}" role="img">{"".join(parts)}</svg>'

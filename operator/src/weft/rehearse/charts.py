"""Charts over time as SVG, and the HTML file that they stand in, which refers to nothing outside itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from weft.rehearse.world import AGGREGATES, DECODES, PREFILLS

WIDTH, HEIGHT, LEFT, BOTTOM = 960, 130, 56, 18
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
Size = tuple[float, Mapping[str, int], int]
"""From a moment on: replicas that serve by role, and replicas held in all."""


def document(title: str, body: str, data: Any) -> str:
    """The whole file; `data` is in it as JSON, for programs."""
    text = json.dumps(data).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n{body}\n'
        f'<div id="tip" role="tooltip"></div><script type="application/json" id="figures">{text}</script>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def keys(colours: Iterable[tuple[str, str]], note: str = "") -> str:
    """What each colour stands for, and a note."""
    spans = "".join(
        f'<span class="key" style="background:{colour}"></span>{escape(name)}' for name, colour in colours
    )
    return f'<p class="soft">{spans}{f"<span>&emsp;{escape(note)}</span>" if note else ""}</p>'


def _x(at: float, seconds: float) -> float:
    return LEFT + (WIDTH - LEFT) * min(1.0, at / seconds)


def chart(
    seconds: float,
    lines: Sequence[tuple[str, Sequence[tuple[float, float | None]]]],
    top: float | None = None,
    unit: str = "",
    limit: float = math.inf,
    cut: float = math.inf,
    mark: float | None = None,
) -> str:
    """Lines over time; `limit` is drawn across where it is finite, and nothing is drawn beyond `cut` times of it.

    `mark`: a moment at which a line goes up.
    """
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
    if mark is not None:
        x = _x(mark, seconds)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}" stroke="#64748b"/>')
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


def replicas(seconds: float, sizes: Sequence[Size], marks: Sequence[tuple[float, str]], most: int) -> str:
    """Serving replicas per role, one upon the other, what is held, and marks with a text to read on hover."""
    sizes = [each for each in sizes if each[0] <= seconds]
    parts = [_frame(seconds, most, "")]
    line: list[str] = []
    for (at, serving, held), until in zip(sizes, [*(each[0] for each in sizes[1:]), seconds], strict=True):
        left, right = _x(at, seconds), _x(until, seconds)
        base = 0
        for role, colour in ROLE_COLOURS.items():
            count = serving.get(role, 0)
            if count:
                y, height = HEIGHT * (1 - (base + count) / most), HEIGHT * count / most
                parts.append(
                    f'<rect x="{left:.1f}" y="{y:.1f}" width="{right - left:.1f}" height="{height:.1f}"'
                    f' fill="{colour}" fill-opacity="0.75"/>'
                )
            base += count
        y = HEIGHT * (1 - min(1.0, held / most))
        line.append(f"{'L' if line else 'M'}{left:.1f} {y:.1f}L{right:.1f} {y:.1f}")
    parts.append(f'<path d="{"".join(line)}" fill="none" stroke="#0f172a" stroke-width="1.2"/>')
    for at, text in marks:
        x = _x(at, seconds)
        parts.append(
            f'<g class="decision" tabindex="0" data-tip="{escape(text, quote=True)}"><line x1="{x:.1f}" x2="{x:.1f}"'
            f' y1="0" y2="{HEIGHT}" stroke="#0f172a" stroke-opacity="0.35"/><circle cx="{x:.1f}" cy="0" r="4.5"/></g>'
        )
    return _svg(parts)


def stacked(parts: Sequence[tuple[str, Mapping[str, str], str]]) -> str:
    """One SVG of several charts that stands alone; of each its heading, the name of each colour, and the chart."""
    pitch, above = HEIGHT + BOTTOM + 8 + 56, 40
    drawn = []
    for number, (heading, colours, svg) in enumerate(parts):
        y = number * pitch
        drawn.append(f'<text x="0" y="{y + 14}" class="heading">{escape(heading)}</text>')
        x = LEFT
        for name, colour in colours.items():
            drawn.append(
                f'<rect x="{x}" y="{y + 22}" width="9" height="9" fill="{colour}"/>'
                f'<text x="{x + 13}" y="{y + 31}">{escape(name)}</text>'
            )
            x += 40 + 7 * len(name)
        placed = f'<svg y="{y + above}" width="{WIDTH}" height="{HEIGHT + BOTTOM + 8}" '
        drawn.append(svg.replace("<svg ", placed, 1))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 {WIDTH + 16} {pitch * len(parts) + 8}"'
        f' font-family="system-ui, sans-serif" font-size="11"><style>text {{ fill: #64748b }}'
        f" .heading {{ fill: #1e293b; font-size: 14px; font-weight: 600 }}"
        f" .decision circle {{ fill: #fff; stroke: #0f172a; stroke-width: 1.6 }}</style>"
        f'<rect x="-8" y="-8" width="100%" height="100%" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


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

"""A report as one HTML file that refers to nothing outside itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from weft.rehearse.charts import ROLE_COLOURS, chart, document, keys, replicas
from weft.rehearse.play import Case
from weft.rehearse.summary import kept, paid_columns, verdict

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#64748b")


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
        keys([("prompt tokens/s", "#f59e0b"), ("answer tokens/s", "#3b82f6")]),
        chart(
            seconds,
            [
                ("#f59e0b", _series(first, "promptTokensPerSecond")),
                ("#3b82f6", _series(first, "answerTokensPerSecond")),
            ],
        ),
        "<h2>Within both objectives</h2>",
        keys(colours.items(), "dashed: the share that is promised, on average over all requests"),
        chart(seconds, lines("attainment", 100.0), top=100.0, unit=" %", limit=100 * objectives.attainment),
        "<h2>Time to first token, 90th percentile</h2>",
        keys((), "dashed, here and below: the objective"),
        chart(seconds, lines("ttftP90"), unit=" s", limit=objectives.ttft_seconds, cut=4.0),
        "<h2>Time between tokens, 90th percentile</h2>",
        chart(seconds, lines("itlP90", 1000.0), unit=" ms", limit=1000 * objectives.itl_seconds, cut=4.0),
    ]
    for name in names:
        count = len(courses[name]["decisions"])
        parts.append(f"<h2>{escape(name)}: replicas</h2>")
        parts.append(
            keys(
                [*ROLE_COLOURS.items(), ("held, starting and draining included", "#0f172a")],
                f"{count} decisions, each with its reason" if count else "nothing is decided",
            )
        )
        sizes = [(one["atSeconds"], one["serving"], one["held"]) for one in courses[name]["sizes"]]
        parts.append(replicas(seconds, sizes, _decisions(courses[name]), case.most_replicas))
    body = "\n".join(parts)
    return document(title, body, {"policies": list(rows), "courses": dict(courses)})


def _decisions(course: Mapping[str, Any]) -> list[tuple[float, str]]:
    """When something was decided, and what is to be read about it."""
    marks = []
    for one in course["decisions"]:
        lines = [f"{one['atSeconds']:,.0f} s: {one['split']}", one["reason"].replace("; ", "\n")]
        marks.append(
            (one["atSeconds"], "\n".join([*lines, *(f"else {each}" for each in one["alternatives"])]))
        )
    return marks


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
        f" {case.accelerators_per_replica} accelerator{'s' * (case.accelerators_per_replica > 1)} each;"
        f" {', '.join(promises)}; scraped every {case.scrape_seconds:g} s; flips"
        f" {'overlap' if case.overlap else 'drain'} and take {case.flip_seconds:g} s; cold start"
        f" {case.cold_start_seconds:g} s; seed {case.seed}"
    )


def _cycle(colours: Sequence[str], count: int) -> list[str]:
    return [colours[i % len(colours)] for i in range(count)]


def _table(rows: Sequence[dict[str, Any]], colours: Mapping[str, str]) -> str:
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("first split", lambda row: row["first"]),
        ("within objectives", lambda row: f"{row['attainment'] * 100:.1f} %"),
        (f"{rows[0]['promised'] * 100:g} % promised", lambda row: "kept" if kept(row) else "missed"),
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

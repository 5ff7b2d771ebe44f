"""The run as one HTML file with charts: what was asked, what both groups gave, and when Weft moved what, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

from weft.rehearse.charts import ROLE_COLOURS, chart, document, keys, replicas, stacked
from weft.rehearse.world import DECODES, PREFILLS
from weft_playground.demo.report import Evidence, GroupReport, groups, quantile, share_within, summary
from weft_playground.load import Result

BIN_SECONDS = 5.0
COLOURS = ("#7c3aed", "#0f766e", "#64748b")
"""Of the groups, none of them a stage's."""
Line = list[tuple[float, float | None]]
Told = Sequence[tuple[float, str]]
"""Moments in seconds of the load, each with what Weft said then."""


def picture(found: Evidence, decisions: Told) -> str:
    """The page. Pure."""
    seconds = _seconds(found)
    names, results = zip(*_results(found).items(), strict=True)
    colours = dict(zip(names, COLOURS, strict=False))

    def lines(of: Sequence[Line]) -> list[tuple[str, Line]]:
        return list(zip(colours.values(), of, strict=True))

    within = [_binned(each, seconds, lambda some: _percent(some, found)) for each in results]
    first = [
        _binned(each, seconds, lambda some: quantile([one.ttft for one in some], 0.5) if some else None)
        for each in results
    ]
    between = [
        _binned(
            each,
            seconds,
            lambda some: 1000 * quantile([one.mean_inter_token for one in some], 0.5) if some else None,
        )
        for each in results
    ]
    objectives = found.objectives
    body = [
        "<h1>The demo: one load, two groups with equal hardware</h1>",
        *_verdict(found, dict(zip(names, results, strict=True))),
        '<p class="soft">The vertical line is where the mix shifts to longer prompts and shorter answers; a dashed line'
        " is an objective; a line with a circle is a decision, whose reason stands below the chart.</p>",
        "<h2>Traffic: tokens asked for a second, by the time a request is sent</h2>",
        keys([("prompt tokens", ROLE_COLOURS[PREFILLS]), ("answer tokens", ROLE_COLOURS[DECODES])]),
        chart(
            seconds,
            [
                (ROLE_COLOURS[PREFILLS], _rate(found.auto, seconds, "prompt_tokens")),
                (ROLE_COLOURS[DECODES], _rate(found.auto, seconds, "answer_tokens")),
            ],
            mark=found.shift_at,
        ),
        "<h2>Requests within both objectives, by the time they were sent</h2>",
        keys(colours.items()),
        chart(seconds, lines(within), top=100.0, unit=" %", mark=found.shift_at),
        "<h2>Time to first token, median</h2>",
        chart(
            seconds,
            lines(first),
            unit=" s",
            limit=objectives.time_to_first_token,
            cut=3.0,
            mark=found.shift_at,
        ),
        "<h2>Time between tokens, median</h2>",
        chart(
            seconds,
            lines(between),
            unit=" ms",
            limit=1000 * objectives.inter_token_latency,
            cut=3.0,
            mark=found.shift_at,
        ),
    ]
    for group in groups(found):
        marks = decisions if group is found.auto else ()
        note = f"decisions, each with its reason: {len(marks)}" if marks else "nothing is decided"
        body += [
            f"<h2>{escape(group.name)}: replicas that serve</h2>",
            keys([("prefill", ROLE_COLOURS[PREFILLS]), ("decode", ROLE_COLOURS[DECODES])], note),
            replicas(seconds, _sizes(group), marks, max(found.split.replicas, 1)),
        ]
        if marks:
            told = "".join(
                f"<li>after {at:,.0f} s: {'<br>'.join(escape(text).splitlines())}</li>" for at, text in marks
            )
            body.append(f"<ul>{told}</ul>")
    body.append(f"<h2>Figures</h2><pre>{escape(summary(found))}</pre>")
    data = {
        "shiftSeconds": found.shift_at,
        "within": dict(zip(names, within, strict=True)),
        "decisions": [{"atSeconds": at, "text": text} for at, text in decisions],
    }
    return document("Weft: the demo", "\n".join(body), data)


def poster(found: Evidence, decisions: Told) -> str:
    """Split and objectives of both groups over time as one SVG that stands alone. Pure."""
    seconds, results = _seconds(found), _results(found)
    colours = dict(zip(results, COLOURS, strict=False))
    within = [_binned(each, seconds, lambda some: _percent(some, found)) for each in results.values()]
    lines = list(zip(colours.values(), within, strict=True))
    roles = {"prefill": ROLE_COLOURS[PREFILLS], "decode": ROLE_COLOURS[DECODES]}
    most = max(found.split.replicas, 1)
    return stacked(
        [
            (
                "Requests within both objectives, by the time they were sent (the mix shifts at the line)",
                colours,
                chart(seconds, lines, top=100.0, unit=" %", mark=found.shift_at),
            ),
            *(
                (
                    f"{group.name} ({group.mode}): replicas that serve",
                    roles,
                    replicas(seconds, _sizes(group), decisions if group is found.auto else (), most),
                )
                for group in groups(found)
            ),
        ]
    )


def _verdict(found: Evidence, results: dict[str, Sequence[Result]]) -> Iterable[str]:
    """What came of it, in a sentence."""
    shares = ((name, _percent(some, found)) for name, some in results.items())
    said = [f"{name} {share:.1f} %" for name, share in shares if share is not None]
    if said:
        yield f'<div class="verdict">Requests within both objectives: {escape("; ".join(said))}</div>'


def _seconds(found: Evidence) -> float:
    everything = [result for group in groups(found) for result in group.results]
    return max([found.shift_at, *(result.scheduled for result in everything)])


def _results(found: Evidence) -> dict[str, Sequence[Result]]:
    """Of each group, and of the best fixed split in hindsight, by what a chart calls it."""
    named = {group.name: group.results for group in groups(found)}
    best = max(
        found.computed, key=lambda one: share_within(one.results, found.objectives) or 0.0, default=None
    )
    if best is not None:
        named[f"best fixed split in hindsight, {best.split} (computed)"] = best.results
    return named


def _bins(results: Iterable[Result], seconds: float) -> list[list[Result]]:
    bins: list[list[Result]] = [[] for _ in range(int(seconds / BIN_SECONDS) + 1)]
    for one in results:
        bins[min(len(bins) - 1, int(one.scheduled / BIN_SECONDS))].append(one)
    return bins


def _binned(
    results: Iterable[Result], seconds: float, value: Callable[[Sequence[Result]], float | None]
) -> Line:
    return [((i + 0.5) * BIN_SECONDS, value(some)) for i, some in enumerate(_bins(results, seconds))]


def _rate(group: GroupReport, seconds: float, field: str) -> Line:
    return _binned(
        group.results, seconds, lambda some: sum(getattr(one, field) for one in some) / BIN_SECONDS
    )


def _percent(some: Sequence[Result], found: Evidence) -> float | None:
    share = share_within(some, found.objectives)
    return None if share is None else 100 * share


def _sizes(group: GroupReport) -> list[tuple[float, dict[str, int], int]]:
    return [
        (
            max(at, 0.0),
            {PREFILLS: census.prefill, DECODES: census.decode},
            census.prefill + census.decode + census.not_serving,
        )
        for at, census in group.history
    ]

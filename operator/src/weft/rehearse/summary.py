"""Runs as figures: one row per policy, and the course of each over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from weft.rehearse.play import Case, Run
from weft.rehearse.world import AGGREGATES, DECODES, PREFILLS

QUANTILES = (0.5, 0.9, 0.99)
BINS_MOST = 240
BIN_LEAST_SECONDS = 15.0


def split_text(counts: dict[str, int]) -> str:
    """`3:5`, or with aggregated replicas `3:1:4`."""
    middle = f":{counts[AGGREGATES]}" if counts.get(AGGREGATES) else ""
    return f"{counts.get(PREFILLS, 0)}{middle}:{counts.get(DECODES, 0)}"


def quantile(sorted_values: Sequence[float], q: float) -> float:
    """The value that a share q does not exceed; not a number where there is none."""
    if not sorted_values:
        return math.nan
    return sorted_values[min(len(sorted_values) - 1, math.ceil(q * len(sorted_values)) - 1)]


def figures(run: Run, watts: float | None = None, price: float | None = None) -> dict[str, Any]:
    """One policy's row. `watts` per accelerator that is held, `price` of an accelerator-hour. None: not known."""
    world = run.world
    ttft = sorted(each for each in world.ttft if not math.isnan(each))
    itl = sorted(each for each in world.itl if not math.isnan(each))
    hours = run.accelerator_hours
    met = world.met
    tokens = sum(
        world.trace.answer_tokens[i] for i in range(len(world.trace)) if not math.isnan(world.itl[i])
    )
    return {
        "policy": run.policy,
        "first": split_text(run.first),
        "attainment": run.attainment,
        "promised": run.case.objectives.attainment,
        "sizeIsFree": run.case.least_replicas < run.case.most_replicas,
        "requests": len(world.trace),
        "unanswered": len(world.trace) - world.done,
        "ttftSeconds": {f"p{round(q * 100)}": _known(quantile(ttft, q)) for q in QUANTILES},
        "itlSeconds": {f"p{round(q * 100)}": _known(quantile(itl, q)) for q in QUANTILES},
        "acceleratorHours": hours,
        "goodputPerAcceleratorHour": met / hours if hours else None,
        "decisions": len(run.decisions),
        "flips": run.flips,
        "made": run.made,
        "removed": run.removed,
        "watts": watts,
        "price": price,
        "wattHoursPerRequest": None if watts is None else watts * hours / max(1, len(world.trace)),
        "costPerMillionAnswerTokens": None if price is None else price * hours * 1e6 / max(1, tokens),
    }


def larger_than_kv_cache(case: Case) -> int:
    """Requests whose prompt and answer no replica has room for."""
    sizes = map(sum, zip(case.trace.prompt_tokens, case.trace.answer_tokens, strict=True))
    return sum(size > case.planned.kv_capacity_tokens for size in sizes)


def course(run: Run) -> dict[str, Any]:
    """Traffic, latencies and sizes over time, in bins of equal length; requests count where they arrived."""
    world, seconds = run.world, run.case.trace.seconds
    width = max(BIN_LEAST_SECONDS, seconds / BINS_MOST)
    count = max(1, math.ceil(seconds / width))
    at = world.trace.at_seconds
    requests: list[list[int]] = [[] for _ in range(count)]
    for i, when in enumerate(at):
        requests[min(count - 1, int(when / width))].append(i)
    rows = []
    for number, members in enumerate(requests):
        rows.append(
            {
                "atSeconds": number * width,
                "requestsPerSecond": len(members) / width,
                "promptTokensPerSecond": sum(world.prompt_tokens[i] for i in members) / width,
                "answerTokensPerSecond": sum(world.answer_tokens[i] for i in members) / width,
                "attainment": sum(map(run.within, members)) / len(members) if members else None,
                "ttftP90": _ninth(world.ttft[i] for i in members),
                "itlP90": _ninth(world.itl[i] for i in members),
            }
        )
    return {
        "binSeconds": width,
        "bins": rows,
        "sizes": [{"atSeconds": when, "serving": serving, "held": held} for when, serving, held in run.sizes],
        "decisions": [
            {
                "atSeconds": one.at_seconds,
                "split": split_text(one.counts),
                "reason": one.reason,
                "alternatives": list(one.alternatives),
            }
            for one in run.decisions
        ],
    }


def _ninth(values: Any) -> float | None:
    return _known(quantile(sorted(each for each in values if not math.isnan(each)), 0.9))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    promise = f"promised {rows[0]['promised'] * 100:g} %"
    head = [
        "policy",
        "first",
        "attained",
        promise,
        "TTFT p50/p99",
        "ITL p50/p99",
        "acc-hours",
        "good/acc-h",
        "moves",
    ]
    paid = paid_columns(rows)
    lines = [[*head, *(title for title, _ in paid)]]
    for row in rows:
        ttft, itl = row["ttftSeconds"], row["itlSeconds"]
        moves = row["flips"] + row["made"] + row["removed"]
        lines.append(
            [
                row["policy"],
                row["first"],
                f"{row['attainment'] * 100:.1f} %",
                "kept" if kept(row) else "missed",
                f"{_text(ttft['p50'], 1)}/{_text(ttft['p99'], 1)} s",
                f"{_text(itl['p50'], 1000)}/{_text(itl['p99'], 1000)} ms",
                f"{row['acceleratorHours']:.2f}",
                "-"
                if row["goodputPerAcceleratorHour"] is None
                else f"{row['goodputPerAcceleratorHour']:.0f}",
                str(moves),
                *(f"{row[field]:.2f}" for _, field in paid),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def paid_columns(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(title, field) of energy and cost, as far as what an accelerator draws and costs was said."""
    watts, price = rows[0]["watts"], rows[0]["price"]
    columns = []
    if watts is not None:
        columns.append((f"Wh/request at {watts:g} W", "wattHoursPerRequest"))
    if price is not None:
        columns.append((f"cost/1M tokens at {price:g}/h", "costPerMillionAnswerTokens"))
    return columns


def _text(value: float | None, factor: int) -> str:
    return "-" if value is None else f"{value * factor:.{2 if factor == 1 else 1}f}"


def kept(row: dict[str, Any]) -> bool:
    """Whether the policy kept what was promised."""
    return bool(row["attainment"] >= row["promised"])


EQUAL = 0.01
"""Shares of requests that differ by less are told apart by accelerator-hours only."""


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the figures say, in sentences: also that nothing should move, or that stages should not be apart."""
    by_name = {row["policy"]: row for row in rows}
    static, weft = by_name.get("best-static"), by_name.get("weft")
    first = by_name.get("static")
    said: list[str] = []
    if static is not None and static["first"].startswith("0:") and static["first"].endswith(":0"):
        said.append(
            f"Do not disaggregate: of all fixed splits, replicas that serve both stages met most"
            f" ({_percent(static)})."
        )
    if rows[0]["sizeIsFree"]:
        said += _of_sizes(by_name)
    elif static is not None and weft is not None:
        gain = weft["attainment"] - static["attainment"]
        saved = _saved(weft, static)
        if gain > EQUAL:
            said.append(
                f"Weft met {_percent(weft)}, the best fixed split in hindsight ({static['first']}) {_percent(static)}."
            )
        elif gain >= -EQUAL and saved > EQUAL:
            said.append(
                f"Weft met as much as the best fixed split in hindsight ({static['first']}) with {saved * 100:.0f} %"
                " fewer accelerator-hours."
            )
        else:
            said.append(
                f"Do not move: {static['first']} fixed met {_percent(static)}, Weft from {weft['first']}"
                f" {_percent(weft)}."
            )
    if first is not None:
        said.append(f"The first split, kept ({first['first']}), met {_percent(first)}.")
    others = [by_name[name] for name in ("hpa", "dynamo", "ratio") if name in by_name]
    if others:
        said.append("Other policies: " + ", ".join(map(_other, others)) + ".")
    if "optimum" in by_name and not rows[0]["sizeIsFree"]:
        said.append(f"A schedule that knew the trace would have met {_percent(by_name['optimum'])}.")
    return said


def _other(row: dict[str, Any]) -> str:
    hours = f" for {row['acceleratorHours']:,.2f} accelerator-hours" if row["sizeIsFree"] else ""
    return f"{row['policy']} {_percent(row)}{hours}"


def _of_sizes(by_name: Mapping[str, dict[str, Any]]) -> list[str]:
    """Where policies choose the size too: whether the promise is kept comes first, then what that takes."""
    fixed, weft = by_name.get("best-static"), by_name.get("weft")
    said: list[str] = []
    if fixed is not None:
        promised = f"{fixed['promised'] * 100:g} %"
        met = f"{_percent(fixed)} for {fixed['acceleratorHours']:,.2f} accelerator-hours"
        said.append(
            f"The smallest fixed fleet that keeps {promised}, known only in hindsight, is {fixed['first']}: {met}."
            if kept(fixed)
            else f"No fixed fleet within the bounds keeps {promised}: {fixed['first']} comes nearest with {met}."
        )
    if fixed is None or weft is None:
        return said
    saved = _saved(weft, fixed)
    hours = (
        f"{abs(saved) * 100:.0f} % {'fewer' if saved > 0 else 'more'} accelerator-hours than that"
        if round(abs(saved) * 100)
        else "as many accelerator-hours as that"
    )
    if kept(weft):
        said.append(f"Weft keeps the promise ({_percent(weft)}) with {hours}.")
        if kept(fixed) and saved <= EQUAL:
            said.append(f"Keep a fixed size: {fixed['first']} does as well.")
    else:
        said.append(f"Weft does not keep the promise: {_percent(weft)}, with {hours}.")
        if kept(fixed):
            said.append(f"Keep a fixed size, {fixed['first']}, or promise less.")
    return said


def _saved(row: dict[str, Any], than: dict[str, Any]) -> float:
    """Part of the accelerator-hours; below zero: it takes more."""
    hours = than["acceleratorHours"]
    return 1 - row["acceleratorHours"] / hours if hours > 0 else 0.0


def _percent(row: dict[str, Any]) -> str:
    return f"{row['attainment'] * 100:.1f} %"

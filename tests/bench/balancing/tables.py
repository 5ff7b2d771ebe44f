"""The tables of docs/evaluation.md, from what was played."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import constants
from policies import AGGREGATED, STATIC, Played

BEST = "best static split in hindsight"
BEST_WHOLE = "the same, also aggregated"
Cell = tuple[str, bool, int]
"""Case, whether nothing drains, seed."""


def figures(played: Played) -> dict[str, float]:
    """Accelerators that start or drain are counted: what is held is paid for, and drawn at full power."""
    outcome = played.outcome
    hours = outcome.worker_seconds * constants.ACCELERATORS_PER_REPLICA / 3600
    return {
        "accelerator_hours": hours,
        "goodput_per_accelerator_hour": outcome.within * outcome.requests / hours,
        "watt_hours_per_request": constants.WATTS * hours / outcome.requests,
        "cost_per_million_answer_tokens": constants.PRICE * hours * 1e6 / outcome.answer_tokens,
    }


def line(row: Mapping[str, Any]) -> str:
    outcome, how = row["outcome"], "drains first" if row["drains"] else "no drain"
    return (
        f"{row['case']} seed {row['seed']} {name(row)}, {how}, from {row['split']}: {outcome['within'] * 100:.1f} %"
        f" within, {outcome['moves']} decisions, {row['accelerator_hours']:.2f} accelerator-hours"
    )


def name(row: Mapping[str, Any]) -> str:
    """A policy with what it saw."""
    scrape = f", scrapes of {row['scrape_seconds']:g} s" if row["scrape_seconds"] else ""
    return f"{row['policy']}{scrape}"


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Share within objectives by policy and case, drains first and without; then what hardware gave and cost."""
    found = best(rows)
    # What nobody knew beforehand comes first, Weft last.
    names = sorted(found, key=lambda each: (each.startswith("weft"), each not in (BEST, BEST_WHOLE)))
    columns = list(dict.fromkeys(row["case"] for row in rows))
    shares, costs = [_head(columns)], [_head(columns)]
    for each in names:
        cells: dict[str, list[Mapping[str, Any]]] = {case: [] for case in columns}
        for (case, *_), row in sorted(found[each].items()):
            cells[case].append(row)
        shares.append(_row(each, [_shares(cells[case]) for case in columns]))
        costs.append(_row(each, [_costs(cells[case]) for case in columns]))
    return "\n".join(
        (
            "Share of requests within both objectives in per cent, by seed: drains first / no drain",
            "",
            *shares,
            "",
            "Requests within objectives per accelerator-hour; energy per request; cost per million answer tokens",
            "",
            *costs,
        )
    )


def best(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[Cell, Mapping[str, Any]]]:
    """By policy and cell; of all fixed splits the best one, with and without aggregated replicas."""
    found: dict[str, dict[Cell, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        cell = row["case"], not row["drains"], row["seed"]
        if row["policy"] not in (STATIC, AGGREGATED):
            found[name(row)][cell] = row
            continue
        for title in (BEST, BEST_WHOLE) if row["policy"] == STATIC else (BEST_WHOLE,):
            known = found[title].get(cell)
            if known is None or row["outcome"]["within"] > known["outcome"]["within"]:
                found[title][cell] = row
    return found


def _head(columns: Sequence[str]) -> str:
    return _row("policy", columns) + "\n" + "|---" * (len(columns) + 1) + "|"


def _row(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def _shares(rows: Sequence[Mapping[str, Any]]) -> str:
    ways = []
    for drains in (True, False):
        members = [row for row in rows if row["drains"] is drains]
        fixed = [f" ({row['split']})" if row["policy"] in (STATIC, AGGREGATED) else "" for row in members]
        shares = [f"{row['outcome']['within'] * 100:.1f}" for row in members]
        ways.append(", ".join(a + b for a, b in zip(shares, fixed, strict=True)))
    return " / ".join(filter(None, ways))


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over the seeds, drains first."""
    members = [row for row in rows if row["drains"]]
    if not members:
        return ""
    keys = ("goodput_per_accelerator_hour", "watt_hours_per_request", "cost_per_million_answer_tokens")
    goodput, energy, cost = (sum(row[key] for row in members) / len(members) for key in keys)
    return f"{goodput:,.0f}; {energy:.2f} Wh; ${cost:.2f}"

"""The tables of docs/evaluation.md, from what was played."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import constants
from policies import AGGREGATED, STATIC, Played

BEST = "best static split in hindsight"
BEST_WHOLE = "the same, also aggregated"
Cell = tuple[str, int]
"""Case and seed."""


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
    outcome, how = row["outcome"], name(row)
    return (
        f"{row['case']} seed {row['seed']} {how} from {row['split']}: {outcome['within'] * 100:.1f} % within,"
        f" {outcome['moves']} decisions, {row['accelerator_hours']:.2f} accelerator-hours"
    )


def name(row: Mapping[str, Any]) -> str:
    """A policy with what tells its rows apart."""
    if row["policy"] in (STATIC, AGGREGATED):
        return str(row["policy"])
    scrape = f", scrapes of {row['scrape_seconds']:g} s" if row["scrape_seconds"] else ""
    return f"{row['policy']}{scrape}, {'drains first' if row['drains'] else 'no drain'}"


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Share within objectives by policy and case; then what an accelerator-hour gave, and what a request cost."""
    found = best(rows)
    # What nobody knew beforehand comes first, Weft last.
    names = sorted(found, key=lambda each: (each.startswith("weft"), each not in (BEST, BEST_WHOLE)))
    columns = list(dict.fromkeys(row["case"] for row in rows))
    shares = [_head(columns)]
    costs = [_head(columns)]
    for each in names:
        cells: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for (case, _), row in sorted(found[each].items()):
            cells[case].append(row)
        shares.append(_row(each, [_shares(cells[case]) for case in columns]))
        costs.append(_row(each, [_costs(cells[case]) for case in columns]))
    head = "Goodput per accelerator-hour; energy per request; cost per million answer tokens"
    return "\n".join(("Share of requests within both objectives", "", *shares, "", head, "", *costs))


def best(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[Cell, Mapping[str, Any]]]:
    """By policy and cell; of all fixed splits the best one, with and without aggregated replicas."""
    found: dict[str, dict[Cell, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        cell = row["case"], row["seed"]
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
    fixed = [f" ({row['split']})" if row["policy"] in (STATIC, AGGREGATED) else "" for row in rows]
    shares = [f"{row['outcome']['within'] * 100:.1f}" for row in rows]
    return ", ".join(a + b for a, b in zip(shares, fixed, strict=True)) + " %" if rows else ""


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    means = [
        sum(row[key] for row in rows) / len(rows)
        for key in (
            "goodput_per_accelerator_hour",
            "watt_hours_per_request",
            "cost_per_million_answer_tokens",
        )
    ]
    return f"{means[0]:,.0f}; {means[1]:.2f} Wh; ${means[2]:.2f}"

"""How the page of `weft ui` looks, and the headings of its tables, which narrow windows show before each cell."""

from __future__ import annotations

from collections.abc import Iterable

from weft.cli.look.history_chart import STYLE as CHART_STYLE
from weft.cli.look.recorded_chart import STYLE as RECORDED_STYLE

STATES = ("bound", "reserved", "quarantined", "unavailable", "kept", "free")
"""Of a pool's devices, in the order in which the bar shows them. Kept ones are among the free."""
GROUPS = ("Group", "Mode", "Split", "Serving", "Objectives", "Last decision", "To be looked at")
WAITS = ("Logical node", "Age", "Place", "Reason", "What it waits for", "What to do")
POOLS = (
    "Pool",
    "Fabric",
    "Devices",
    "Total",
    *(state.capitalize() for state in STATES),
    "Stranded",
    "To be looked at",
)
HOSTS = ("Host", "Node", "Logical node", "State", "Devices")


def _headings(table: str, columns: Iterable[str]) -> str:
    return "".join(
        f'.{table} td:nth-child({n}):not(:empty)::before {{ content: "{column}: "; }} '
        for n, column in enumerate(columns, start=1)
        if n > 1
    )


NARROW = (
    """
@media (max-width: 90rem) { thead th { white-space: normal; } th, td { padding: .3rem .4rem; } .bar { width: 5rem; } }
@media (max-width: 48rem) {
.stacked thead { position: absolute; clip-path: inset(50%); }
.stacked, .stacked caption, .stacked tbody, .stacked tr, .stacked th, .stacked td { display: block; text-align: left; }
.stacked tr { border-bottom: 1px solid var(--line); padding: .4rem 0; }
.stacked th, .stacked td { border: 0; padding: .1rem .3rem; overflow-wrap: anywhere; }
.stacked td::before { color: var(--soft); } .stacked td:empty { display: none; }
"""
    + _headings("groups", GROUPS)
    + _headings("waits", WAITS)
    + _headings("pools", POOLS)
    + _headings("hosts", HOSTS)
    + "}\n"
)
"""A row as wide as seven columns does not fit into a narrow window: its cells stand below each other there."""

STYLE = (
    """
:root { color-scheme: light dark; --ink: #1e293b; --soft: #475569; --ground: #fff; --line: #cbd5e1; --card: #f8fafc;
  --well: #166534; --look: #9a3412; --bound: #15803d; --reserved: #0891b2; --quarantined: #dc2626;
  --unavailable: #d97706; --kept: #7c3aed; --free: #cbd5e1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e2e8f0; --soft: #a8b5c7; --ground: #0f172a; --line: #334155;
  --card: #16213a; --well: #86efac; --look: #fdba74; --bound: #22c55e; --reserved: #22d3ee; --quarantined: #f87171;
  --unavailable: #fbbf24; --kept: #a78bfa; --free: #334155; } }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 1.2rem auto;
  max-width: 1400px; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; } p { margin: .3rem 0; }
.soft { color: var(--soft); } .well { color: var(--well); } .look { color: var(--look); }
#problem:not(:empty) { border: 2px solid var(--look); padding: .4rem .7rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; margin: .3rem 0 .9rem; }
caption { text-align: left; font-weight: 600; padding: .2rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; }
thead th { white-space: nowrap; background: var(--card); } tbody th { font-weight: 600; min-width: 7rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { display: block; width: 9rem; height: 1.1rem; }
.key { width: .8rem; height: .8rem; display: inline-block; margin-right: .3rem; vertical-align: -1px; }
code { font-size: .92em; } .whole { white-space: nowrap; } nav a { color: inherit; margin-right: 1rem; }
summary { cursor: pointer; } ul { margin: .2rem 0; padding-left: 1.2rem; } td p:first-child { margin-top: 0; }
"""
    + "".join(f".{state} {{ fill: var(--{state}); }} " for state in STATES)
    + CHART_STYLE
    + RECORDED_STYLE
    + NARROW
)

"""Writes the chart's Grafana dashboards: `python -m weft_dev.dashboards DIR`.

Every query stands here once; a test sends all of them to a Prometheus that scrapes the operator.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.cli.look.recorded import QUERIES

WIDTH, HEIGHT, ACROSS = 12, 8, 2
"""Of a panel, in Grafana's units, and how many stand side by side."""


@dataclass(frozen=True)
class Panel:
    """One graph."""

    title: str
    query: str
    legend: str
    unit: str = "short"
    stacked: bool = False


FLEET = (
    Panel("Devices by state", "sum by (kind, state) (weft_pool_devices)", "{{kind}} {{state}}", stacked=True),
    Panel(
        "Part of the devices that is bound",
        'sum by (kind, pool) (weft_pool_devices{state="bound"}) / sum by (kind, pool) (weft_pool_devices)',
        "{{kind}} {{pool}}",
        "percentunit",
    ),
    Panel(
        "Devices held by namespace", "sum by (namespace) (weft_held_devices)", "{{namespace}}", stacked=True
    ),
    Panel(
        "Cost by namespace, per hour",
        "sum by (namespace) (rate(weft_held_cost_total[5m])) * 3600",
        "{{namespace}}",
    ),
    Panel(
        "Power by namespace, as pools say",
        "sum by (namespace) (rate(weft_held_joules_total[5m]))",
        "{{namespace}}",
        "watt",
    ),
    Panel(
        "Logical nodes", "sum by (bound, reason) (weft_logical_nodes)", "{{bound}} {{reason}}", stacked=True
    ),
    Panel(
        "Oldest logical node that waits",
        "max by (reason) (weft_logical_node_oldest_waiting_seconds) or vector(0)",
        "{{reason}}",
        "s",
    ),
    Panel(
        "Events", "sum by (kind, reason) (rate(weft_events_total[5m])) * 60", "{{kind}} {{reason}} a minute"
    ),
    Panel("Leaders", "sum(weft_leader)", "leaders"),
    Panel(
        "Reconciliations, 99th percentile",
        "histogram_quantile(0.99, sum by (controller, le) (rate(weft_reconcile_seconds_bucket[5m])))",
        "{{controller}}",
        "s",
    ),
    Panel("Writes to the API server", "sum(rate(weft_api_writes_total[5m]))", "a second", "reqps"),
)
GROUPS = (
    Panel("Replicas that serve", QUERIES["serving"], "{{namespace}}/{{group}} {{role}}", stacked=True),
    Panel(
        "Replicas that the load needs", QUERIES["needed"], "{{namespace}}/{{group}} {{stage}}", stacked=True
    ),
    Panel("Requests", QUERIES["requests"], "{{namespace}}/{{group}}", "reqps"),
    Panel("Tokens asked for, a second", QUERIES["tokens"], "{{namespace}}/{{group}} {{of}}"),
    Panel(
        "Part within each objective",
        QUERIES["within"],
        "{{namespace}}/{{group}} {{objective}}",
        "percentunit",
    ),
    Panel("Objectives met (1), missed (0), not known (-1)", QUERIES["met"], "{{namespace}}/{{name}}"),
    Panel(
        "Replicas that are to serve and do not",
        'max by (namespace, group, role) (weft_role_replicas{state="desired", group=~"$group"})'
        ' - max by (namespace, group, role) (weft_role_replicas{state="serving", group=~"$group"})',
        "{{namespace}}/{{group}} {{role}}",
    ),
    Panel(
        "Metrics fresh (1)",
        'weft_condition{kind="InferenceGroup", condition="MetricsFresh", name=~"$group"}',
        "{{namespace}}/{{name}}",
    ),
    Panel(
        "Replicas on their way to another role",
        'sum by (namespace, group) (weft_group_transfers{group=~"$group"}) or vector(0)',
        "{{namespace}}/{{group}}",
    ),
    Panel(
        "Since the last decision",
        f"time() - {QUERIES['decided']}",
        "{{namespace}}/{{group}}",
        "s",
    ),
)
FABRICS = (
    Panel("Devices at the manager", "weft_fabric_devices", "{{fabric}}"),
    Panel("Hosts and hosts with a Node", "weft_fabric_hosts or weft_fabric_nodes", "{{fabric}}"),
    Panel("Conditions (1 True)", 'weft_condition{kind="Fabric"}', "{{name}} {{condition}}"),
    Panel(
        "Devices that cannot be had",
        'sum by (kind, pool, state) (weft_pool_devices{state=~"quarantined|unavailable"})',
        "{{kind}} {{pool}} {{state}}",
        stacked=True,
    ),
)
DASHBOARDS = {
    "fleet": ("Weft: fleet", FLEET),
    "groups": ("Weft: inference groups", GROUPS),
    "fabrics": ("Weft: fabrics", FABRICS),
}
GROUP_VARIABLE = {
    "name": "group",
    "label": "group",
    "type": "query",
    "query": "label_values(weft_role_replicas, group)",
    "datasource": {"type": "prometheus", "uid": "${datasource}"},
    "multi": True,
    "includeAll": True,
    "refresh": 2,
}
SOURCE_VARIABLE = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def dashboard(name: str) -> dict[str, Any]:
    """One dashboard as Grafana imports it."""
    title, panels = DASHBOARDS[name]
    uses_group = any("$group" in panel.query for panel in panels)
    return {
        "uid": f"weft-{name}",
        "title": title,
        "tags": ["weft"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [SOURCE_VARIABLE, *([GROUP_VARIABLE] if uses_group else [])]},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    stacking = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if panel.stacked else {}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {
            "x": number % ACROSS * WIDTH,
            "y": number // ACROSS * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": stacking}, "overrides": []},
        "targets": [{"refId": "A", "expr": panel.query, "legendFormat": panel.legend}],
    }


def write(directory: Path) -> None:
    """Write all dashboards."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (directory / f"{name}.json").write_text(json.dumps(dashboard(name), indent=1) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

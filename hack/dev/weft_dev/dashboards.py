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
        "Logical nodes that wait, by age",
        "sum by (reason, longer_than) (weft_logical_nodes_waiting) or vector(0)",
        "{{reason}} {{longer_than}}",
    ),
    Panel("Bytes by state", "sum by (kind, state) (weft_pool_bytes)", "{{kind}} {{state}}", "bytes", True),
    Panel(
        "Devices that are unavailable",
        "sum by (kind, pool, cause) (weft_pool_unavailable_devices)",
        "{{kind}} {{pool}} {{cause}}",
        stacked=True,
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
    Panel(
        "Requests to the API server",
        "sum by (method, status) (rate(weft_api_request_seconds_count[5m]))",
        "{{method}} {{status}}",
        "reqps",
    ),
    Panel(
        "Requests to the API server, 99th percentile",
        "histogram_quantile(0.99, sum by (method, le) (rate(weft_api_request_seconds_bucket[5m])))",
        "{{method}}",
        "s",
    ),
    Panel("Keys that wait for a worker", "sum(weft_queue_depth)", "keys"),
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
        "Why the split is kept, or what was decided waits",
        'max by (namespace, group, reason) (weft_group_hold{group=~"$group"}) or vector(0)',
        "{{namespace}}/{{group}} {{reason}}",
    ),
    Panel(
        "Decisions and moves, an hour",
        'sum by (namespace, group, reason) (increase(weft_group_events_total{group=~"$group"}[1h])) or vector(0)',
        "{{namespace}}/{{group}} {{reason}}",
    ),
    Panel(
        "Part of the requests that is late: expected",
        'max by (namespace, group, split) (weft_group_expected_late_ratio{group=~"$group"}) or vector(0)',
        "{{namespace}}/{{group}} {{split}}",
        "percentunit",
    ),
    Panel(
        "Part of the requests that is late: measured",
        '1 - min by (namespace, group) (weft_group_within_objective_ratio{group=~"$group"})',
        "{{namespace}}/{{group}}",
        "percentunit",
    ),
    Panel(
        "Part of the last hours' requests that was in time, and the headroom that this asks for",
        'label_replace(max by (namespace, group) (weft_group_kept_ratio{group=~"$group"}), "of", "in time", "", "")'
        ' or label_replace(max by (namespace, group) (weft_group_headroom_ratio{group=~"$group"}),'
        ' "of", "headroom", "", "")',
        "{{namespace}}/{{group}} {{of}}",
        "percentunit",
    ),
    Panel(
        "Speed of the engines, as a multiple of their profile",
        'min by (namespace, group, stage) (weft_group_speed_ratio{group=~"$group"})',
        "{{namespace}}/{{group}} {{stage}}",
    ),
    Panel(
        "Drains, 90th percentile",
        "histogram_quantile(0.9, sum by (end, le) (rate(weft_drain_seconds_bucket[1h]))) or vector(0)",
        "{{end}}",
        "s",
    ),
    Panel(
        "Queries for the metrics, 99th percentile",
        "histogram_quantile(0.99, sum by (source, outcome, le) (rate(weft_source_query_seconds_bucket[5m])))",
        "{{source}} {{outcome}}",
        "s",
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
    Panel(
        "Requests to the manager",
        "sum by (fabric, method, status) (rate(weft_fabric_requests_total[5m]))",
        "{{fabric}} {{method}} {{status}}",
        "reqps",
    ),
    Panel(
        "One reading of everything, mean",
        'sum by (fabric) (rate(weft_fabric_call_seconds_sum{call="inventory"}[5m]))'
        ' / sum by (fabric) (rate(weft_fabric_call_seconds_count{call="inventory"}[5m]))',
        "{{fabric}}",
        "s",
    ),
    Panel(
        "Calls that ended with an error, a minute",
        'sum by (fabric, call, outcome) (rate(weft_fabric_call_seconds_count{outcome!="done"}[5m])) * 60 or vector(0)',
        "{{fabric}} {{call}} {{outcome}}",
    ),
    Panel(
        "Attaching and detaching, a minute",
        "sum by (fabric, act, outcome) (rate(weft_hardware_acts_total[5m])) * 60 or vector(0)",
        "{{fabric}} {{act}} {{outcome}}",
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

"""Alerts and dashboards: that they are whole, say what to do, and ask for metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from support.chart import CHART, Helm, find
from weft.runtime.cache import ObjectCache
from weft.runtime.exposed import Exposed
from weft.runtime.metering import Meter
from weft.runtime.metrics import OperatorMetrics
from weft_dev import ROOT, dashboards

from .cases import EVERYTHING

DOCS = (ROOT / "docs" / "metrics.md").read_text()
METRIC = re.compile(r"\bweft_[a-z_]+")


def served() -> set[str]:
    """The names of all samples that the operator can show."""
    metrics = OperatorMetrics()
    exposed = Exposed(ObjectCache(), Meter(lambda: 0.0), {}, {}, {}, lambda: True, lambda: 0.0)
    names = set()
    for family in (*metrics.registry.collect(), *exposed.collect()):
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + end for end in ends}
    return names


def test_every_metric_is_described_and_every_described_one_is_served() -> None:
    described = set(METRIC.findall(DOCS))
    plain = {re.sub("_(bucket|sum|count)$", "", name) for name in served()}
    assert plain - described == set()
    assert {name for name in described if name not in plain} == set()


def test_every_alert_asks_for_a_metric_that_is_served_and_links_to_what_to_do(helm: Helm) -> None:
    rule = find(helm.render(EVERYTHING), "PrometheusRule", "weft-composer")
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]

    assert len(alerts) >= 10
    for alert in alerts:
        assert set(METRIC.findall(alert["expr"])) <= served(), alert["alert"]
        assert alert["annotations"]["runbook_url"] == f"https://docs.example/metrics#{alert['alert'].lower()}"
        assert f"### {alert['alert']}\n" in DOCS
    assert re.findall(r"^### (\w+)$", DOCS, re.MULTILINE) == [alert["alert"] for alert in alerts]


def test_a_monitor_selects_the_operators_pods_and_keeps_the_namespaces_that_the_metrics_are_about(
    helm: Helm,
) -> None:
    labels = {"release": "prometheus"}
    for values, kind, endpoints in (
        ("serviceMonitor", "ServiceMonitor", "endpoints"),
        ("podMonitor", "PodMonitor", "podMetricsEndpoints"),
    ):
        objects = helm.render({values: {"enabled": True, "interval": "15s", "labels": labels}})
        monitor = find(objects, kind, "weft")
        pod = find(objects, "Deployment", "weft")["spec"]["template"]
        service = find(objects, "Service", "weft")
        selector = monitor["spec"]["selector"]["matchLabels"]
        assert labels.items() <= monitor["metadata"]["labels"].items()
        for selected in (service, pod):
            assert selector.items() <= selected["metadata"]["labels"].items()
        assert monitor["spec"][endpoints] == [
            {"port": "http", "path": "/metrics", "interval": "15s", "honorLabels": True}
        ]
        assert [port["name"] for port in pod["spec"]["containers"][0]["ports"]] == ["http"]
        assert [port["name"] for port in service["spec"]["ports"]] == ["http"]


def test_two_monitors_at_once_are_refused_since_each_pod_would_be_scraped_twice(helm: Helm) -> None:
    done = helm.template({"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}})
    assert done.returncode != 0
    assert "scraped twice; set one of them" in done.stderr


def test_without_a_place_for_the_docs_alerts_have_no_link(helm: Helm) -> None:
    rendered = helm.render({"prometheusRule": {"enabled": True}})
    text = json.dumps(find(rendered, "PrometheusRule", "weft"))
    assert "WeftNoLeader" in text
    assert "runbook_url" not in text


def test_the_dashboards_are_what_is_generated_and_reach_grafana_whole(helm: Helm, tmp_path: Path) -> None:
    dashboards.write(tmp_path)
    committed = CHART / "files" / "dashboards"
    found = find(helm.render(EVERYTHING), "ConfigMap", "weft-composer-dashboards")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "weft"
    assert sorted(found["data"]) == sorted(path.name for path in committed.iterdir())
    for path in tmp_path.iterdir():
        assert (committed / path.name).read_text() == path.read_text(), "make generate"
        assert json.loads(found["data"][path.name]) == json.loads(path.read_text())
        assert set(METRIC.findall(path.read_text())) - {"weft_"} <= served()


def lost(sent: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Where one JSON value has something that the other has not."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        for key, value in sent.items():
            if key in kept:
                yield from lost(value, kept[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        for number, pair in enumerate(zip(sent, kept, strict=True)):
            yield from lost(*pair, f"{path}.{number}")
    elif sent != kept:
        yield path


def not_grafanas(dashboard: dict[str, Any]) -> list[str]:
    """What of a dashboard Grafana's own library does not know: it keeps no field that it has no name for."""
    register_default_plugins()
    return list(lost(dashboard, json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))))


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_grafanas_own_library_knows_every_field_of_every_dashboard(name: str) -> None:
    assert not_grafanas(dashboards.dashboard(name)) == []


def test_a_misspelt_field_of_a_dashboard_would_have_been_found() -> None:
    wrong = dashboards.dashboard("groups")
    panel = wrong["panels"][0]
    panel["targets"][0]["legend"] = "x"
    panel["fieldConfig"]["defaults"]["custom"]["fill"] = 1
    wrong["templating"]["list"][0]["kind"] = "query"
    assert not_grafanas(wrong) == [
        ".templating.list.0.kind",
        ".panels.0.fieldConfig.defaults.custom.fill",
        ".panels.0.targets.0.legend",
    ]

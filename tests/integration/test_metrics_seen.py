"""A real Prometheus that scrapes a real operator: every dashboard has data, every alert can be evaluated."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.idle_group import create_group, idle_engines
from support.world import World, eventually, start_kubelet
from weft.api.resources import GPU_POOLS
from weft.cluster import Object
from weft_dev import ROOT, prometheus
from weft_dev.controlplane import ControlPlane
from weft_dev.dashboards import DASHBOARDS

WINDOW = {"requests": 2.0, "prompts": 2.0, "prompt_tokens": 200.0, "answers": 2.0, "answer_tokens": 100.0}
TRAFFIC = {
    **{f"{name}_{window}": rate for name, rate in WINDOW.items() for window in ("short", "long")},
    **{"age": 0.0, "jobs": 1.0, "ttft_buckets 0.5": 1.9, "ttft_buckets +Inf": 2.0},
}
"""What the group's front end counts a second; half a second is the objective for the first token."""
ALERTS = ROOT / "charts" / "weft" / "files" / "alerts.yaml"


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=8, gpus=12, memories=1)
    try:
        world.start_emulator()
        world.create(heartbeats=False)
        start_kubelet(world)
        yield world
    finally:
        world.close()


def own_claims(world: World) -> list[Object]:
    return [claim for claim in world.claims() if claim["spec"]["claimRef"]["namespace"] == world.namespace]


def test_each_alert_fires_once_its_cause_lasts_and_not_for_what_passes(
    tool_paths: dict[str, Path], tmp_path: Path
) -> None:
    played = yaml.safe_load((ROOT / "tests" / "data" / "alerts.yaml").read_text())
    alerts = {
        alert["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for alert in group["rules"]
    }
    fire = {
        one["alertname"] for case in played["tests"] for one in case["alert_rule_test"] if one["exp_alerts"]
    }
    assert fire == alerts
    case = tmp_path / "alerts.json"
    case.write_text(json.dumps({**played, "rule_files": [str(ALERTS)]}))
    promtool(tool_paths, "test", "rules", str(case))
    promtool(tool_paths, "check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))


def promtool(tool_paths: dict[str, Path], *arguments: str, stdin: bytes = b"") -> None:
    done = subprocess.run(
        [tool_paths["promtool"], *arguments], input=stdin, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stdout


def test_every_dashboard_has_data_every_alert_is_valid_and_the_bill_is_right(
    world: World, tool_paths: dict[str, Path]
) -> None:
    with idle_engines(world.kube, world.namespace, TRAFFIC) as settings:
        world.kube.patch(GPU_POOLS, world.name, {"spec": {"cost": {"perDeviceHour": "36"}}})
        operator = world.start_operator(**settings)
        create_group(world.kube, world.namespace)
        world.logical_node("trainer", gpus=2, memory="")
        world.logical_node("greedy", gpus=13, memory="")
        eventually(lambda: world.is_bound("trainer"), what="trainer is bound")
        eventually(lambda: len(own_claims(world)) == 6, what="so are the group's four replicas")
        job = {
            "job_name": "weft",
            "scrape_interval": "1s",
            # As the chart's monitors have it: the operator's own namespace is a label of the target.
            "honor_labels": True,
            "static_configs": [
                {
                    "targets": [f"127.0.0.1:{world.ports[operator]}"],
                    "labels": {"namespace": "weft-system"},
                }
            ],
        }
        config = {"rule_files": [str(ALERTS)], "scrape_configs": [job]}
        with prometheus.start(json.dumps(config), binary=tool_paths["prometheus"]) as server:
            # Rates need two scrapes, and needs replicas that have served for several.
            eventually(lambda: server.query("rate(weft_api_writes_total[1m]) >= 0"), what="two scrapes")
            eventually(lambda: server.query("weft_group_needed_replicas"), 30, what="the load is known")
            empty = [
                f"{name}: {panel.title}"
                for name, (_, panels) in DASHBOARDS.items()
                for panel in panels
                if not server.query(panel.query.replace("$group", ".*"))
            ]
            assert empty == []
            # And by the label of the group's own namespace, as `weft ui` looks for it.
            needed = server.query(DASHBOARDS["groups"][1][1].query.replace("$group", ".*"))
            assert {one["metric"]["namespace"] for one in needed} == {world.namespace}
            for group in yaml.safe_load(ALERTS.read_text())["groups"]:
                for alert in group["rules"]:
                    server.query(alert["expr"])

            held = f'weft_held_devices{{namespace="{world.namespace}", kind="GPUPool"}}'
            assert [sample["value"][1] for sample in server.query(held)] == ["6"]
            # Six devices at 36 an hour: 0.06 a second.
            # Logical nodes that other tests left behind may have found a place here, too.
            own = f'{{pool="{world.name}", kind="GPUPool", namespace="{world.namespace}"}}'
            ratio = f"weft_held_cost_total{own} / weft_held_device_seconds_total"
            assert [float(sample["value"][1]) for sample in server.query(ratio)] == pytest.approx([0.01])
        with urllib.request.urlopen(f"http://127.0.0.1:{world.ports[operator]}/metrics", timeout=10) as shown:
            text = shown.read()
        assert {b"# TYPE weft_held_cost_total counter", b"# TYPE weft_leader gauge"} <= set(text.splitlines())
        promtool(tool_paths, "check", "metrics", stdin=text)

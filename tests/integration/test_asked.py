"""`weft status`, `tree`, `why`, `pause` and `resume` against a real API server, with the rights of different people."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.chart_cluster import ROLE_BINDINGS
from support.idle_group import create_group
from support.world import World, eventually, reason
from weft.api.resources import FABRICS, INFERENCE_GROUPS, LOGICAL_NODES, ResourceType
from weft_dev import controlplane
from weft_dev.controlplane import ControlPlane
from weft_dev.kube import Kube

ROOT = Path(__file__).resolve().parents[2]
ROLES = ResourceType("rbac.authorization.k8s.io", "v1", "roles", "Role", True)


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=2, gpus=4, memories=1)
    try:
        world.start_emulator()
        world.create()
        world.start_operator()
        world.logical_node("trainer", gpus=2, memory="")
        eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
        world.logical_node("greedy", gpus=4, memory="")
        eventually(lambda: reason(world.get("greedy"), "Bound") == "NotEnoughDevices", what="greedy waits")
        yield world
    finally:
        world.close()


def weft(kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WEFT_", "KUBE"))}
    command = [sys.executable, "-m", "weft.cli.main", *arguments, "--kubeconfig", str(kubeconfig)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def tenant(world: World) -> Path:
    """A kubeconfig of somebody who may read their own namespace's objects of Weft, and events."""
    verbs = ["get", "list", "watch"]
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "reader"},
        "rules": [
            {"apiGroups": ["weft.dev"], "resources": ["logicalnodes", "inferencegroups"], "verbs": verbs},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": verbs},
        ],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": world.namespace}],
    }
    world.kube.create(ROLES, role, world.namespace)
    world.kube.create(ROLE_BINDINGS, binding, world.namespace)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = f"/api/v1/namespaces/{world.namespace}/serviceaccounts/default/token"
    token = world.kube.request("POST", path, request)["status"]["token"]
    file = world.directory / "tenant.kubeconfig"
    controlplane.write_kubeconfig(file, world.plane.url, token, world.plane.ca_file)
    return file


def test_an_administrator_sees_the_rack_and_what_waits_and_a_tenant_their_own(
    world: World, tool_paths: dict[str, Path]
) -> None:
    whole = weft(world.plane.kubeconfig, "status", "-o", "json")
    assert whole.returncode == 0, whole.stderr
    told = json.loads(whole.stdout)
    pools = {(pool["kind"], pool["name"]): pool["counts"] for pool in told["pools"]}
    assert pools["GPUPool", world.name]["bound"] == 2
    assert {(node["namespace"], node["name"]) for node in told["waiting"]} >= {(world.namespace, "greedy")}

    drawn = weft(world.plane.kubeconfig, "tree", f"fab/{world.name}")
    assert drawn.stdout.count(f"for LogicalNode {world.namespace}/trainer") == 2, drawn.stdout + drawn.stderr

    # As kubectl finds and runs its plugins: the script that the package installs.
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["kubectl-weft"]
    module, _, function = declared.partition(":")
    script = world.directory / "kubectl-weft"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
    )
    script.chmod(0o755)
    path = os.pathsep.join((str(world.directory), os.environ["PATH"]))
    plugin = subprocess.run(
        [str(tool_paths["kubectl"]), "weft", "tree", f"fab/{world.name}"],
        env={**os.environ, "PATH": path, "KUBECONFIG": str(world.plane.kubeconfig)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (plugin.returncode, plugin.stdout) == (0, drawn.stdout), plugin.stderr

    own = tenant(world)
    seen = weft(own, "why", "lnode/greedy", "-n", world.namespace)
    assert seen.returncode == 0, seen.stderr
    assert "Bound=False NotEnoughDevices" in seen.stdout
    assert "do first: Wait for a release" in seen.stdout
    assert "NotEnoughDevices" in seen.stdout.split("events")[-1]
    overview = weft(own, "status", "-n", world.namespace)
    assert "1 of 2 bound and ready" in overview.stdout
    assert "for want of the right to list them: deviceattachments," in overview.stdout
    page = weft(own, "ui", "--once", "-", "-n", world.namespace)
    assert (page.returncode, page.stderr) == (0, "")
    assert "Not shown, for want of the right to list them: deviceattachments, devicequotas," in page.stdout
    assert f"{world.namespace}/greedy" in page.stdout
    assert "1 of 2 logical nodes bound and ready" in page.stdout
    whole_page = weft(world.plane.kubeconfig, "ui", "--once", "-")
    assert f"Fabric {world.name}" in whole_page.stdout
    assert "Not shown" not in whole_page.stdout
    refused = weft(own, "status", "-n", "kube-system")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no right to list" in refused.stderr


def test_a_pause_reaches_the_operator_and_resume_takes_it_back(world: World, kube: Kube) -> None:
    def mode() -> str:
        return str((kube.get(FABRICS, world.name) or {})["spec"]["mode"])

    device = next(each["metadata"]["name"] for each in world.claims())
    held = weft(world.plane.kubeconfig, "why", f"device/{device}")
    assert f"held by LogicalNode {world.namespace}/trainer" in held.stdout, held.stderr
    assert f"Normal Bound: LogicalNode {world.namespace}/trainer: attached to sled-" in held.stdout

    paused = weft(world.plane.kubeconfig, "pause", f"fabric/{world.name}")
    assert paused.returncode == 0, paused.stderr
    assert mode() == "Observe"
    world.delete("trainer")
    assert len(world.attached()) == 2
    resumed = weft(world.plane.kubeconfig, "resume", f"fabric/{world.name}")
    assert (resumed.returncode, mode()) == (0, "Manage")
    eventually(lambda: world.attached() == set() or world.is_bound("greedy"), what="trainer is released")

    world.delete("greedy")
    eventually(lambda: world.attached() == set(), what="all is released")
    eventually(lambda: world.claims() == [], what="nobody holds anything")
    # Its owner is gone, and the administrator still reads who had it, and why it went.
    past = json.loads(weft(world.plane.kubeconfig, "why", f"device/{device}", "-o", "json").stdout)
    told = [(event["reason"], event["message"]) for event in past[0]["events"]]
    assert (past[0]["holder"], [reason for reason, _ in told][:2]) == ("", ["Bound", "Detached"]), told
    assert "(Deleted)" in told[1][1]
    held = weft(world.plane.kubeconfig, "pause", "--taking", f"fabric/{world.name}")
    assert held.returncode == 0, held.stderr
    world.logical_node("later", gpus=1, memory="")
    eventually(lambda: reason(world.get("later"), "Bound") == "Suspended", what="later is told")
    weft(world.plane.kubeconfig, "resume", f"fabric/{world.name}")
    eventually(lambda: reason(world.get("later"), "Bound") != "Suspended", what="the fabric gives again")

    create_group(kube, world.namespace)
    weft(world.plane.kubeconfig, "pause", "infg/llama", "-n", world.namespace)
    group = kube.get(INFERENCE_GROUPS, "llama", world.namespace) or {}
    assert group["spec"]["rebalance"]["mode"] == "Paused"


PLANNED = """
apiVersion: weft.dev/v1alpha2
kind: LogicalNode
metadata: {name: next}
spec: {accelerators: [{name: main, count: 2}]}
---
apiVersion: weft.dev/v1alpha2
kind: LogicalNode
metadata: {name: odd}
spec: {accelerators: [{name: main, count: 2, colour: red}]}
"""


def test_a_plan_is_answered_before_anything_is_written_and_comes_true(
    world: World, kube: Kube, tmp_path: Path
) -> None:
    world.delete("greedy")
    file = tmp_path / "planned.yaml"
    file.write_text(PLANNED)
    operator = f"--operator=http://127.0.0.1:{next(iter(world.ports.values()))}"
    options = ("plan", "-f", str(file), "-n", world.namespace, operator)
    told = weft(world.plane.kubeconfig, *options, "-o", "json")
    answer = json.loads(told.stdout)
    assert told.returncode == 3, told.stderr
    assert [one["verdict"] for one in answer["objects"]] == ["create", "refused"]
    assert "colour" in answer["objects"][1]["message"]
    (node,) = answer["nodes"]
    assert (node["outcome"], len(node["devices"])) == ("binds", 2)
    assert kube.get(LOGICAL_NODES, "next", world.namespace) is None

    text = weft(world.plane.kubeconfig, *options).stdout
    assert f"LogicalNode {world.namespace}/next would be bound on Node {node['node_name']}" in text
    # Who may read alone is refused by the API server, and the operator is not asked.
    refused = weft(tenant(world), *options, "-o", "json")
    assert (refused.returncode, json.loads(refused.stdout)["nodes"]) == (3, [])
    assert "cannot patch resource" in refused.stdout

    world.logical_node("next", gpus=2, memory="")
    eventually(lambda: world.is_bound("next"), what="next is Bound")
    status = world.get("next")["status"]
    assert status["nodeName"] == node["node_name"]
    assert {one["device"] for one in status["devices"]} == {one["device"] for one in node["devices"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("why", "lnode/nobody"), "there is no LogicalNode default/nobody, or no right to see it"),
        (("why", "pod/x"), "'pod' is no kind of Weft's"),
        (("pause", "lnode/nobody"), "there is no LogicalNode default/nobody"),
        (("status", "--context", "elsewhere"), "no cluster to work with"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(
    control_plane: ControlPlane, arguments: tuple[str, ...], words: str
) -> None:
    told = weft(control_plane.kubeconfig, *arguments)

    assert (told.returncode, told.stdout) == (1, "")
    assert words in told.stderr
    assert len(told.stderr.splitlines()) == 1

"""Binding against a real API server and a fabric manager behind HTTP that would attach a device twice."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from support.world import World, condition, eventually, reason
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    NODES,
    PODS,
    ResourceType,
)
from weft.cluster import Object
from weft_dev.controlplane import ControlPlane

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=4, gpus=8, memories=4)
    try:
        world.start_emulator("--permissive")
        yield world
    finally:
        world.close()


def taints(world: World) -> list[str]:
    nodes = [world.kube.get(NODES, f"{world.name}-{host}") for host in world.hosts]
    return [t["key"] for node in nodes if node for t in node["spec"].get("taints", []) if "weft" in t["key"]]


def test_a_logical_node_is_bound_with_all_its_devices_and_released_without_a_trace(world: World) -> None:
    world.create()
    world.logical_node("trainer", gpus=4, memory="2Ti")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")

    node = world.get("trainer")
    assert node is not None
    assert condition(node, "Ready") == "True"
    host = node["status"]["host"]
    assert node["status"]["nodeName"] == f"{world.name}-{host}"
    assert len(node["status"]["devices"]) == 8
    assert world.attached() == {(item["device"], host) for item in node["status"]["devices"]}
    assert taints(world) == ["weft.dev/logical-node"]

    def counts() -> tuple[int, int]:
        pool = world.kube.get(GPU_POOLS, world.name) or {}
        devices = pool.get("status", {}).get("devices", {})
        return devices.get("bound", 0), devices.get("free", 0)

    eventually(lambda: counts() == (4, 4), what="pool counts 4 bound, 4 free")

    world.delete("trainer")
    eventually(lambda: world.get("trainer") is None, what="trainer is gone")
    assert world.attached() == set()
    assert world.claims() == []
    assert taints(world) == []


def test_a_request_that_does_not_fit_attaches_nothing_and_says_what_is_missing(world: World) -> None:
    world.create()
    world.logical_node("greedy", gpus=8, memory="4Ti")
    eventually(lambda: reason(world.get("greedy"), "Reserved") == "NoSuchDevices", what="refusal")
    message = next(
        c["message"] for c in world.get("greedy")["status"]["conditions"] if c["type"] == "Reserved"
    )  # type: ignore[index]
    assert message == (
        "main: 8 accelerators asked for; kv: 4096 GiB asked for;"
        " no pool has so many such devices together, in use or not"
    )
    assert world.acts() == []
    assert world.claims() == []


def test_when_one_device_fails_the_others_are_released_and_another_set_is_bound(world: World) -> None:
    world.create()
    world.faults({"match": {"block": "gpu-0", "verb": "attach"}, "times": -1, "kind": "fail"})
    world.logical_node("trainer", gpus=2)
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    devices = {item["device"] for item in world.get("trainer")["status"]["devices"]}  # type: ignore[index]
    assert "gpu-0" not in devices
    assert {device for device, _ in world.attached()} == devices
    failed = world.kube.get(DEVICE_ATTACHMENTS, f"{world.name}.gpu-0")
    assert condition(failed, "Quarantined") == "True"

    # An administrator clears it by deleting the attachment; the bound node is not disturbed.
    world.clear_faults()
    world.kube.delete(DEVICE_ATTACHMENTS, f"{world.name}.gpu-0")
    eventually(lambda: world.kube.get(DEVICE_ATTACHMENTS, f"{world.name}.gpu-0") is None, what="cleared")
    assert world.is_bound("trainer")
    assert {device for device, _ in world.attached()} == devices


def test_a_manager_that_reports_success_and_does_nothing_is_not_believed(world: World) -> None:
    world.create()
    world.faults({"match": {"verb": "attach"}, "times": 1, "kind": "lie"})
    world.logical_node("trainer")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    assert {device for device, _ in world.attached()} == {
        item["device"]
        for item in world.get("trainer")["status"]["devices"]  # type: ignore[index]
    }


@pytest.mark.parametrize("kind", ["fail-after-commit", "drop-after-commit", "drop", "error-in-200"])
def test_an_attach_whose_outcome_is_unknown_ends_bound_with_each_device_attached_once(
    world: World, kind: str
) -> None:
    world.create()
    world.faults({"match": {"verb": "attach"}, "times": 1, "kind": kind})
    world.logical_node("trainer")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    attaches = [act["block"] for act in world.acts() if act["act"] == "attach"]
    assert len(attaches) == len(set(attaches)) == 3


def test_a_node_deleted_while_its_attach_hangs_leaves_nothing_attached(world: World) -> None:
    world.create()
    world.faults({"match": {"verb": "attach"}, "times": 1, "kind": "hang", "seconds": 3})
    world.logical_node("trainer")
    eventually(lambda: world.claims(), what="claims are made")
    world.delete("trainer")
    eventually(lambda: world.get("trainer") is None and not world.claims(), what="released")
    assert world.attached() == set()


def test_an_object_whose_finalizer_was_stripped_has_its_devices_released(world: World) -> None:
    world.create()
    world.logical_node("trainer")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    # Or the operator would be done before the finalizer goes.
    world.faults({"match": {"verb": "detach"}, "times": -1, "kind": "fail"})
    world.delete("trainer")
    world.kube.patch(LOGICAL_NODES, "trainer", {"metadata": {"finalizers": None}}, world.namespace)
    assert world.get("trainer") is None
    assert world.claims()
    world.clear_faults()
    eventually(lambda: not world.claims(), what="claims released from their own record")
    assert world.attached() == set()
    assert eventually(lambda: taints(world) == [], what="taint gone")


def test_a_fabric_that_goes_away_keeps_the_last_known_picture_and_says_so(world: World) -> None:
    world.create()

    def total() -> int | None:
        return (world.kube.get(GPU_POOLS, world.name) or {}).get("status", {}).get("devices", {}).get("total")

    eventually(lambda: total() == 8, what="pool counts 8")
    world.stop_emulator()
    eventually(
        lambda: condition(world.kube.get(FABRICS, world.name), "Connected") == "False", what="Connected=False"
    )
    eventually(
        lambda: reason(world.kube.get(GPU_POOLS, world.name), "Ready") == "FabricUnreachable",
        what="pool says so",
    )
    assert total() == 8
    port = int(world.emulator_url.rsplit(":", 1)[1].strip("/"))
    world.start_emulator("--permissive", port=port)
    eventually(
        lambda: condition(world.kube.get(FABRICS, world.name), "Connected") == "True", what="Connected again"
    )


def test_an_observed_fabric_is_read_and_never_written_to(world: World) -> None:
    world.create(mode="Observe")
    world.logical_node("trainer")
    eventually(lambda: reason(world.get("trainer"), "Reserved") == "OnlyPlanned", what="a plan")
    assert len(world.get("trainer")["status"]["plan"]["devices"]) == 3  # type: ignore[index]
    pool = eventually(
        lambda: (world.kube.get(GPU_POOLS, world.name) or {}).get("status", {}).get("devices"), what="counts"
    )
    assert pool["total"] == 8
    assert world.acts() == []


def test_a_node_is_released_when_its_time_is_up_and_does_not_bind_again(world: World) -> None:
    world.create()
    world.logical_node("short", ttlSecondsAfterBound=2)
    # It says so before its first device goes.
    eventually(lambda: condition(world.get("short"), "Expired") == "True", what="Expired")
    eventually(lambda: not world.claims() and not world.attached(), what="its devices are free again")
    assert not world.is_bound("short")


def test_a_manager_that_forgot_an_attachment_makes_the_node_not_ready_and_releasable(world: World) -> None:
    world.create()
    world.logical_node("trainer")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    port = int(world.emulator_url.rsplit(":", 1)[1].strip("/"))
    world.stop_emulator()
    (world.directory / "state.json").unlink()
    world.start_emulator("--permissive", port=port)
    eventually(
        lambda: reason(world.get("trainer"), "Ready") == "DeviceMissing", what="Ready=False DeviceMissing"
    )
    (ready,) = (each for each in world.get("trainer")["status"]["conditions"] if each["type"] == "Ready")
    assert ready["message"].endswith("delete this LogicalNode and make it anew: none is left")
    assert len(world.claims()) == 3
    world.delete("trainer")
    eventually(lambda: world.get("trainer") is None and not world.claims(), what="released once settled")


def test_devices_are_not_detached_under_a_running_pod(world: World) -> None:
    world.create()
    world.logical_node("trainer")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    toleration = {"key": "weft.dev/logical-node", "operator": "Exists"}
    spec = {
        "nodeName": world.get("trainer")["status"]["nodeName"],  # type: ignore[index]
        "tolerations": [toleration],
        "containers": [{"name": "main", "image": "none"}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "job"}, "spec": spec}
    world.kube.create(PODS, pod, world.namespace)
    world.delete("trainer")
    node = eventually(
        lambda: obj if reason(obj := world.get("trainer"), "Bound") == "Releasing" else None, what="Releasing"
    )
    assert "pods still use the devices: job" in str(node["status"]["conditions"])
    assert len(world.attached()) == 3
    world.kube.delete(PODS, "job", world.namespace, grace_seconds=0)
    eventually(lambda: world.get("trainer") is None, what="trainer is gone")
    assert world.attached() == set()


BUDGETS = ResourceType("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True)


def allowed(world: World) -> int | None:
    """Disruptions that the budget allows, as the disruption controller counted them; None: it has not counted yet."""
    budget = world.kube.get(BUDGETS, "job", world.namespace) or {}
    status = budget.get("status", {})
    counted = status.get("observedGeneration") == budget["metadata"]["generation"] and status.get(
        "currentHealthy"
    )
    return int(status["disruptionsAllowed"]) if counted else None


def host_of(world: World, name: str = "trainer") -> str:
    """Where it is; empty while it has no place, which may be between any two looks."""
    return str((world.get(name) or {}).get("status", {}).get("host", ""))


def message(obj: Object | None, kind: str) -> str:
    conditions = (obj or {}).get("status", {}).get("conditions", [])
    return next((each["message"] for each in conditions if each["type"] == kind), "")


def test_a_node_that_grew_leaves_its_host_for_maintenance_as_the_budget_of_its_pods_allows(
    world: World,
) -> None:
    world.create()
    world.logical_node("trainer", gpus=2, memory="")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    host = world.get("trainer")["status"]["host"]  # type: ignore[index]
    first = world.attached()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "job", "labels": {"app": "job"}},
        "spec": {
            "nodeName": f"{world.name}-{host}",
            "tolerations": [{"key": "weft.dev/logical-node", "operator": "Exists"}],
            "containers": [{"name": "main", "image": "none"}],
        },
    }
    world.kube.create(PODS, pod, world.namespace)
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    world.kube.patch(PODS, "job", {"status": ready}, world.namespace, subresource="status")
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "job"}}}
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "job"},
        "spec": spec,
    }
    world.kube.create(BUDGETS, budget, world.namespace)
    eventually(lambda: allowed(world) == 0, what="the budget allows nothing")

    # It grows under its pod, and what it had is not touched.
    more = {"spec": {"accelerators": [{"name": "main", "count": 4}]}}
    world.kube.patch(LOGICAL_NODES, "trainer", more, world.namespace)
    eventually(lambda: condition(world.get("trainer"), "Resized") == "True", what="it has grown")
    assert len(world.attached()) == 4
    assert first < world.attached()
    assert {at for _, at in world.attached()} == {host}
    assert [act["act"] for act in world.acts()] == ["attach"] * 4

    out = {"spec": {"maintenance": {"hosts": [host], "drain": {}}}}
    world.kube.patch(FABRICS, world.name, out)
    eventually(
        lambda: "a PodDisruptionBudget keeps job" in message(world.get("trainer"), "Draining"),
        what="the budget holds",
    )
    assert world.is_bound("trainer")
    eventually(
        lambda: reason(world.kube.get(FABRICS, world.name), "HostsDrained") == "InUse", what="still in use"
    )
    world.kube.patch(BUDGETS, "job", {"spec": {"minAvailable": 0}}, world.namespace)
    eventually(
        lambda: "deletionTimestamp" in (world.kube.get(PODS, "job", world.namespace) or {})["metadata"],
        what="the pod is evicted",
    )
    assert len(world.attached()) == 4
    world.kube.delete(PODS, "job", world.namespace, grace_seconds=0)
    eventually(
        lambda: world.is_bound("trainer") and host_of(world) not in ("", host),
        what="it is placed elsewhere",
    )
    assert host not in {at for _, at in world.attached()}
    eventually(
        lambda: message(world.kube.get(FABRICS, world.name), "HostsDrained") == f"safe to pull: {host}",
        what="safe to pull",
    )

    # And shrinks: two of the four go, and are not touched before.
    less = {"spec": {"accelerators": [{"name": "main", "count": 2}]}}
    world.kube.patch(LOGICAL_NODES, "trainer", less, world.namespace)
    eventually(lambda: len(world.attached()) == len(world.claims()) == 2, what="it has shrunk")
    assert world.is_bound("trainer")
    assert [act["act"] for act in world.acts()] == ["attach"] * 4 + ["detach"] * 4 + ["attach"] * 4 + [
        "detach"
    ] * 2


def test_devices_that_fail_or_are_taken_out_are_replaced_at_the_same_host_and_a_pool_is_emptied(
    world: World,
) -> None:
    world.create()
    world.logical_node("n", gpus=2, memory="", onDeviceFailure="Replace", placement={"objective": "Energy"})
    eventually(lambda: world.is_bound("n"), what="n is Bound")
    host = host_of(world, "n")
    first, second = devices(world, "n")

    out: Object = {"spec": {"maintenance": {"devices": [first], "drain": {}}}}
    world.kube.patch(GPU_POOLS, world.name, out)
    eventually(
        lambda: len(devices(world, "n")) == 2 and first not in devices(world, "n"),
        what="another took its place",
    )
    eventually(
        lambda: reason(pool(world), "Drained") == "Drained", what="the pool says that it may be pulled"
    )
    assert second in devices(world, "n")
    assert host_of(world, "n") == host

    world.faults({"match": {"block": second}, "times": -1, "kind": "unhealthy"})
    eventually(
        lambda: len(devices(world, "n")) == 2 and second not in devices(world, "n"),
        what="the failed one is replaced",
    )
    quarantined = [each for each in world.claims() if condition(each, "Quarantined") == "True"]
    assert [each["spec"]["device"] for each in quarantined] == [second]
    assert host_of(world, "n") == host

    world.kube.patch(GPU_POOLS, world.name, {"spec": {"maintenance": {"devices": None, "allDevices": True}}})
    eventually(lambda: not world.is_bound("n") and not world.attached(), what="the pool is empty")
    assert reason(world.get("n"), "Bound") in ("Releasing", "NoSuchDevices", "NotEnoughDevices")
    world.kube.patch(GPU_POOLS, world.name, {"spec": {"maintenance": None}})
    eventually(lambda: world.is_bound("n"), what="n is Bound again")


def devices(world: World, name: str) -> list[str]:
    return sorted(each["device"] for each in (world.get(name) or {}).get("status", {}).get("devices", ()))


def pool(world: World) -> Object | None:
    return world.kube.get(GPU_POOLS, world.name)


def test_objectives_choose_between_pools_and_the_replicas_of_a_group_get_devices_of_the_domain_with_room_for_all(
    control_plane: ControlPlane, namespace: str
) -> None:
    world = World(control_plane, namespace, hosts=5, gpus=16, memories=1)
    where = {f"gpu-{number}": f"nvl-{number // 8}" for number in range(16)}

    def make(resource: ResourceType, name: str, spec: Object) -> None:
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "spec": spec}
        world.kube.create(resource, {**body, "metadata": {"name": name, "namespace": namespace}})

    def domains() -> list[str]:
        claims = [each["spec"] for each in world.claims()]
        return sorted(
            where[each["device"]] for each in claims if each["claimRef"]["name"].startswith("llama-")
        )

    def group() -> Object | None:
        return world.kube.get(INFERENCE_GROUPS, "llama", namespace)

    def has_eight(name: str) -> bool:
        status = (world.kube.get(GPU_POOLS, name) or {}).get("status", {})
        return bool(status.get("devices", {}).get("free") == 8)

    try:
        world.start_emulator()
        world.create()
        # The devices of nvl-0 draw less, and cost more.
        for name, domain, watts, cost in (
            (world.name, "nvl-1", 700, "1"),
            (f"{world.name}-0", "nvl-0", 300, "4"),
        ):
            spec = {
                "selector": {"matchAttributes": {"nvlinkDomain": domain}},
                "power": {"busyWatts": watts},
                "cost": {"perDeviceHour": cost},
            }
            if name == world.name:
                world.kube.patch(GPU_POOLS, name, {"spec": spec})
                continue
            identity = {
                "apiVersion": GPU_POOLS.api_version,
                "kind": GPU_POOLS.kind,
                "metadata": {"name": name},
            }
            spec |= {"fabricRef": {"name": world.name}, "allowedNamespaces": {}}
            world.kube.create(GPU_POOLS, {**identity, "spec": spec})
        for name in (world.name, f"{world.name}-0"):
            eventually(partial(has_eight, name), what=f"{name} has its eight")
        one = [{"name": "main", "count": 1}]
        for name, objective, domain in (("cheap", "Cost", "nvl-1"), ("trainer", "Energy", "nvl-0")):
            make(LOGICAL_NODES, name, {"accelerators": one, "placement": {"objective": objective}})
            eventually(partial(world.is_bound, name), what=f"{name} is Bound")
            assert [where[each] for each in devices(world, name)] == [domain]
        world.delete("cheap")
        eventually(lambda: len(world.claims()) == 1, what="cheap is gone")
        template = {"spec": {"containers": [{"name": "engine", "image": "engine:1"}]}}
        spec = {
            "template": template,
            "objectives": {"timeToFirstTokenMilliseconds": 1000},
            "metrics": {"models": ["m"]},
            "accelerators": {"maximum": 64},
            "rebalance": {"mode": "Paused"},
            "placement": {"sameDomain": "nvlinkDomain"},
        }
        make(INFERENCE_GROUPS, "llama", spec)
        node = {"accelerators": [{"name": "main", "count": 4}]}
        for name in ("Prefill", "Decode"):
            role = {"groupRef": {"name": "llama"}, "stage": name, "maxReplicas": 2, "node": node}
            make(INFERENCE_ROLES, name.lower(), {**role, "profileRef": {"name": "none"}})
        eventually(lambda: domains() == ["nvl-1"] * 8, what="both replicas have devices of nvl-1")
        status = (group() or {})["status"]
        assert status["domain"] == {"attribute": "nvlinkDomain", "value": "nvl-1"}
        eventually(lambda: len(world.kube.list(PODS, namespace)) == 2, what="their pods are made")

        # Four are free in nvl-0, and none where the others are.
        world.kube.patch(INFERENCE_ROLES, "decode", {"spec": {"replicas": 2}}, namespace)
        eventually(lambda: reason(group(), "Balanced") == "WaitingForHardware", what="the third waits")
        assert domains() == ["nvl-1"] * 8
    finally:
        world.kube.delete(GPU_POOLS, f"{world.name}-0")
        world.close()

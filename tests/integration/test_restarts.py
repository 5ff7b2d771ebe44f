"""Moves on a real API server and a fabric manager: by a restart, by other hardware, by a roll, to zero and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support import idle_group
from support.broken import ENDS_AT_ONCE
from support.idle_group import GROUP, create_group, split
from support.world import World, condition, eventually, reason, start_kubelet
from weft.api.names import GATE_SERVING
from weft.api.resources import FABRICS, GPU_POOLS, INFERENCE_GROUPS, INFERENCE_ROLES, LOGICAL_NODES, PODS
from weft.emulator import journal
from weft_dev.controlplane import ControlPlane

Object = dict[str, Any]
RATES = ("requests", "prompts", "prompt_tokens", "answers", "answer_tokens")


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str, request: pytest.FixtureRequest) -> Iterator[World]:
    """Of three hosts with a GPU each, or as many as a test asks for."""
    hosts = getattr(request, "param", 3)
    world = World(control_plane, namespace, hosts=hosts, gpus=hosts, memories=hosts)
    world.start_emulator()
    try:
        yield world
    finally:
        world.close()


def template(role: str) -> Object:
    args = [f"--disaggregation-mode={role}"]
    pod = {"containers": [{"name": "engine", "image": "dynamo:1", "args": args}]}
    return {
        "metadata": {"labels": {"example.com/serves": role}},
        "spec": {**pod, "terminationGracePeriodSeconds": 1},
    }


def test_a_restart_and_a_roll_give_pods_other_arguments_and_one_that_cannot_run_stops_the_roll(
    world: World,
) -> None:
    world.create(heartbeats=False)
    start_kubelet(world)
    with idle_group.idle_engines(world.kube, world.namespace) as settings:
        create_group(world.kube, world.namespace)
        change = {"spec": {"accelerators": {"maximum": 3}, "rebalance": {"flip": "Restart"}}}
        world.kube.patch(INFERENCE_GROUPS, GROUP, change, world.namespace)
        for role, replicas in (("prefill", 1), ("decode", 2)):
            change = {"spec": {"replicas": replicas, "template": template(role)}}
            world.kube.patch(INFERENCE_ROLES, role, change, world.namespace)
        world.start_operator(program=ENDS_AT_ONCE, **settings)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 1, "decode": 2}, 60, what="it serves"
        )
        acts, attached = len(world.acts()), world.attached()
        assert len(attached) == 3
        logical = uids(world, LOGICAL_NODES)
        pods = uids(world, PODS)

        # In this order the budget admits the second change as a move only.
        for role, replicas in (("prefill", 2), ("decode", 1)):
            world.kube.patch(INFERENCE_ROLES, role, {"spec": {"replicas": replicas}}, world.namespace)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 2, "decode": 1}, 60, what="it restarts"
        )
        eventually(
            lambda: (
                reason(world.kube.get(INFERENCE_GROUPS, GROUP, world.namespace), "Balanced") == "AsDecided"
            ),
            what="it is as decided",
        )
        assert (len(world.acts()), world.attached()) == (acts, attached)
        assert uids(world, LOGICAL_NODES) == logical
        now = uids(world, PODS)
        assert now.keys() == pods.keys()
        assert len(set(now.items()) - set(pods.items())) == 1
        for pod in world.kube.list(PODS, world.namespace):
            labels = pod["metadata"]["labels"]
            assert labels["example.com/serves"] == labels["weft.dev/role"] == labels["weft.dev/stage"]
            args = pod["spec"]["containers"][0]["args"]
            assert args == [f"--disaggregation-mode={labels['weft.dev/role']}"]

        def roll(image: str, **more: Any) -> None:
            new = template("prefill")
            new["spec"] |= more
            new["spec"]["containers"][0]["image"] = image
            # All of it: what a patch leaves out stays.
            new["spec"].setdefault("nodeSelector", None)
            world.kube.patch(INFERENCE_ROLES, "prefill", {"spec": {"template": new}}, world.namespace)

        def images() -> list[str]:
            return sorted(
                pod["spec"]["containers"][0]["image"]
                for pod in world.kube.list(PODS, world.namespace)
                if pod["metadata"]["labels"]["weft.dev/role"] == "prefill"
            )

        roll("dynamo:2", nodeSelector={"example.com/none": "there"})
        eventually(lambda: balanced(world)[0] == "WaitingForHardware", 30, what="it says what keeps it")
        assert images() == ["dynamo:1", "dynamo:2"], "it goes no further"
        stuck = next(
            pod["metadata"]["name"]
            for pod in world.kube.list(PODS, world.namespace)
            if pod["spec"]["containers"][0]["image"] == "dynamo:2"
        )
        assert stuck in balanced(world)[1]
        assert split(world.kube, world.namespace) == {"prefill": 1, "decode": 1}
        roll("dynamo:3")
        eventually(lambda: images() == ["dynamo:3"] * 2, 40, what="the corrected one rolls")
        eventually(lambda: balanced(world)[0] == "AsDecided", 30, what="it is as decided")
        assert split(world.kube, world.namespace) == {"prefill": 2, "decode": 1}

        # The only one that decodes leaves its host for maintenance when another one serves, and not before.
        world.kube.patch(INFERENCE_ROLES, "prefill", {"spec": {"replicas": 1}}, world.namespace)
        eventually(lambda: len(world.attached()) == len(world.claims()) == 2, 60, what="two are left")
        hosts = {
            node["metadata"]["name"]: node["status"]["host"]
            for node in world.kube.list(LOGICAL_NODES, world.namespace)
        }
        (host,) = (
            hosts[pod["metadata"]["name"]]
            for pod in world.kube.list(PODS, world.namespace)
            if pod["metadata"]["labels"]["weft.dev/role"] == "decode"
        )
        acts = len(world.acts())
        out = {"spec": {"maintenance": {"hosts": [host], "drain": {}}}}
        world.kube.patch(FABRICS, world.name, out)
        eventually(lambda: host not in {at for _, at in world.attached()}, 60, what="its host is free")
        assert [act["act"] for act in world.acts()[acts:]] == ["attach", "detach"]
        assert split(world.kube, world.namespace) == {"prefill": 1, "decode": 1}
        world.kube.delete(INFERENCE_GROUPS, GROUP, world.namespace)
        eventually(lambda: not world.attached(), 60, what="all is released")


def balanced(world: World) -> tuple[str, str]:
    group = world.kube.get(INFERENCE_GROUPS, GROUP, world.namespace) or {}
    found = next(one for one in group["status"]["conditions"] if one["type"] == "Balanced")
    return found["reason"], found["message"]


def test_devices_go_from_host_to_host_where_the_hardware_under_a_role_changes_and_back_while_nobody_asks(
    world: World,
) -> None:
    world.create(heartbeats=False)
    start_kubelet(world)
    front_end: dict[str, float] = {"age": 0, "jobs": 1, "past_windows": 100, "requests_past": 0, "queued": 0}
    front_end |= {f"{signal}_{window}": 0 for signal in RATES for window in ("short", "long")}
    with idle_group.idle_engines(world.kube, world.namespace, front_end) as settings:
        create_group(world.kube, world.namespace)
        # There is room for a fourth in the budget, and no fourth GPU.
        change = {"spec": {"accelerators": {"maximum": 4}, "rebalance": {"flip": "Recompose"}}}
        world.kube.patch(INFERENCE_GROUPS, GROUP, change, world.namespace)
        gpu = [{"name": "main", "count": 1}]
        decode: Object = {"accelerators": gpu, "memory": [{"name": "kv", "size": "512Gi"}]}
        for role, replicas, node in (("prefill", 1, {"accelerators": gpu}), ("decode", 2, decode)):
            change = {"spec": {"replicas": replicas, "node": node}}
            world.kube.patch(INFERENCE_ROLES, role, change, world.namespace)
        world.start_operator(program=ENDS_AT_ONCE, **settings)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 1, "decode": 2}, 60, what="it serves"
        )
        assert len(world.attached()) == 5, "three GPUs, memory for two"
        logical = uids(world, LOGICAL_NODES)
        for role, replicas in (("prefill", 2), ("decode", 1)):
            world.kube.patch(INFERENCE_ROLES, role, {"spec": {"replicas": replicas}}, world.namespace)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 2, "decode": 1}, 60, what="it follows"
        )
        assert len(world.attached()) == 4
        assert len(set(uids(world, LOGICAL_NODES).items()) - set(logical.items())) == 1
        report = journal.check(world.journal.read_text().splitlines())
        assert report.double_attached == ()
        assert (report.attaches, report.detaches) == (6, 2), "one GPU went and came, one memory went"

        for role in ("prefill", "decode"):
            world.kube.patch(INFERENCE_ROLES, role, {"spec": {"minReplicas": 0}}, world.namespace)
        change = {
            "spec": {"accelerators": {"minimum": 0}, "rebalance": {"mode": "Auto", "cooldownSeconds": 0}}
        }
        world.kube.patch(INFERENCE_GROUPS, GROUP, change, world.namespace)
        eventually(lambda: not world.attached(), 40, what="nobody asks: all is given back")
        assert world.kube.list(PODS, world.namespace) == []
        front_end["queued"] = 1
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 1, "decode": 1}, 40, what="it wakes"
        )
        group = world.kube.get(INFERENCE_GROUPS, GROUP, world.namespace) or {}
        assert group["status"]["decision"]["reason"].startswith("grows from zero to decode 1, prefill 1")
        world.kube.delete(INFERENCE_GROUPS, GROUP, world.namespace)
        eventually(lambda: not world.attached(), 60, what="all is released")


@pytest.mark.parametrize("world", [4], indirect=True)
def test_a_replica_of_which_one_device_is_in_maintenance_finishes_its_requests_and_is_made_anew_on_others(
    world: World,
) -> None:
    world.create(heartbeats=False)
    start_kubelet(world)
    busy: set[str] = set()

    def engine(pod: Object) -> dict[str, float]:
        return {"running": 1.0} if pod["metadata"]["name"] in busy else {}

    with idle_group.idle_engines(world.kube, world.namespace, engine=engine) as settings:
        create_group(world.kube, world.namespace)
        gpu = [{"name": "main", "count": 1}]
        decode: Object = {"accelerators": gpu, "memory": [{"name": "kv", "size": "512Gi"}]}
        for role, replicas, node in (("prefill", 1, {"accelerators": gpu}), ("decode", 2, decode)):
            change = {"spec": {"replicas": replicas, "node": node}}
            world.kube.patch(INFERENCE_ROLES, role, change, world.namespace)
        world.start_operator(**settings)
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 1, "decode": 2}, 60, what="it serves"
        )
        victim = next(
            each for each in world.kube.list(LOGICAL_NODES, world.namespace) if each["spec"].get("memory")
        )
        name, devices = victim["metadata"]["name"], victim["status"]["devices"]
        (out,) = (each["device"] for each in devices if each["device"].startswith("gpu"))
        busy.add(name)
        world.kube.patch(GPU_POOLS, world.name, {"spec": {"maintenance": {"devices": [out], "drain": {}}}})
        eventually(lambda: gate(world, name) == ("False", "Removing"), what="it leaves the router")
        eventually(lambda: len(world.attached()) == 7, what="another has its devices")
        eventually(
            lambda: split(world.kube, world.namespace) == {"prefill": 1, "decode": 2}, what="another serves"
        )
        pod = world.kube.get(PODS, name, world.namespace) or {}
        assert "deletionTimestamp" not in pod["metadata"], "it still has a request"
        assert message(world.get(name), "Draining").startswith(
            f"taken out of service: of its devices, with which a replica gives back all, {out};"
            " its InferenceGroup makes another and drains it, for at most 600 s"
        )
        assert [act["act"] for act in world.acts()] == ["attach"] * 7, "nothing is detached under it"

        busy.clear()
        eventually(
            lambda: reason(world.kube.get(GPU_POOLS, world.name), "Drained") == "Drained",
            what="the pool says that it may be pulled",
        )
        assert out not in {device for device, _ in world.attached()}
        eventually(lambda: len(world.attached()) == 5, what="its memory is free, too")
        assert split(world.kube, world.namespace) == {"prefill": 1, "decode": 2}
        report = journal.check(world.journal.read_text().splitlines())
        assert report.double_attached == ()
        assert (report.attaches, report.detaches) == (7, 2)


def gate(world: World, name: str) -> tuple[str, str]:
    """Whether the router may send requests to a pod, and why not."""
    pod = world.kube.get(PODS, name, world.namespace) or {}
    return condition(pod, GATE_SERVING), reason(pod, GATE_SERVING)


def message(obj: Object | None, kind: str) -> str:
    conditions = (obj or {}).get("status", {}).get("conditions", [])
    return next((str(each["message"]) for each in conditions if each["type"] == kind), "")


@pytest.mark.parametrize("world", [4], indirect=True)
def test_encoders_are_made_rolled_scaled_and_removed_beside_what_they_encode_for(world: World) -> None:
    world.create(heartbeats=False)
    start_kubelet(world)
    with idle_group.idle_engines(world.kube, world.namespace) as settings:
        create_group(world.kube, world.namespace)
        change: Object = {"spec": {"rebalance": {"mode": "Auto"}}}
        world.kube.patch(INFERENCE_GROUPS, GROUP, change, world.namespace)
        for role in ("prefill", "decode"):
            world.kube.patch(INFERENCE_ROLES, role, {"spec": {"replicas": 1}}, world.namespace)
        spec = {
            "groupRef": {"name": GROUP},
            "stage": "Encode",
            "replicas": 2,
            "maxReplicas": 3,
            "node": {"accelerators": [{"name": "main", "count": 1}]},
            "template": template("encode"),
            "labels": {"llm-d.ai/role": "encode"},
            "drain": {"timeoutSeconds": 20},
        }
        world.kube.create(INFERENCE_ROLES, idle_group.own(INFERENCE_ROLES, "encode", spec), world.namespace)
        world.start_operator(program=ENDS_AT_ONCE, **settings)
        whole = {"prefill": 1, "decode": 1, "encode": 2}
        eventually(lambda: split(world.kube, world.namespace) == whole, 60, what="all serve")
        assert len(world.attached()) == 4
        others = {key: uid for key, uid in uids(world, PODS).items() if key not in encoders(world)}
        for pod in encoders(world).values():
            assert pod["metadata"]["labels"]["weft.dev/stage"] == "encode"
            assert pod["metadata"]["labels"]["llm-d.ai/role"] == "encode"
        eventually(
            lambda: (
                reason(world.kube.get(INFERENCE_ROLES, "encode", world.namespace), "ReplicasIgnored")
                == "HeldAsAsked"
            ),
            what="it says that it is held",
        )

        new = template("encode")
        new["spec"]["containers"][0]["image"] = "encoder:2"
        world.kube.patch(INFERENCE_ROLES, "encode", {"spec": {"template": new}}, world.namespace)
        eventually(lambda: images(world) == ["encoder:2"] * 2, 90, what="they roll")
        eventually(lambda: split(world.kube, world.namespace) == whole, 30, what="all serve again")

        world.kube.patch(
            INFERENCE_ROLES, "encode", {"spec": {"replicas": 1}}, world.namespace, subresource="scale"
        )
        eventually(lambda: len(world.attached()) == 3, 60, what="one gives its device back")
        assert split(world.kube, world.namespace) == {**whole, "encode": 1}

        world.kube.delete(INFERENCE_ROLES, "encode", world.namespace)
        eventually(lambda: len(world.attached()) == 2, 60, what="the last one does")
        eventually(
            lambda: reason(world.kube.get(INFERENCE_GROUPS, GROUP, world.namespace), "Ready") == "Serving",
            what="the group serves on",
        )
        assert uids(world, PODS) == others, "nothing else was touched"
        world.kube.delete(INFERENCE_GROUPS, GROUP, world.namespace)
        eventually(lambda: not world.attached(), 60, what="all is released")


def encoders(world: World) -> dict[str, Object]:
    pods = world.kube.list(PODS, world.namespace)
    return {
        pod["metadata"]["name"]: pod for pod in pods if pod["metadata"]["labels"]["weft.dev/role"] == "encode"
    }


def images(world: World) -> list[str]:
    return sorted(pod["spec"]["containers"][0]["image"] for pod in encoders(world).values())


def uids(world: World, resource: Any) -> dict[str, str]:
    found = world.kube.list(resource, world.namespace)
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}

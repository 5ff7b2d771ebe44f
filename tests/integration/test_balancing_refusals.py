"""Pods that a real API server refuses: said on role and group in its words, made once it takes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from support.world import World, condition, eventually, reason
from weft.api.resources import EVENTS, INFERENCE_GROUPS, INFERENCE_ROLES, NAMESPACES, PODS, ResourceType
from weft.cluster import Object
from weft_dev.controlplane import ControlPlane

ENFORCE = "pod-security.kubernetes.io/enforce"
CONTAINER = {"name": "engine", "image": "engine:1"}


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=0, gpus=0, memories=0)
    try:
        yield world
    finally:
        for resource in (INFERENCE_GROUPS, INFERENCE_ROLES):
            for obj in world.kube.list(resource, namespace):
                world.kube.patch(
                    resource, obj["metadata"]["name"], {"metadata": {"finalizers": None}}, namespace
                )
                world.kube.delete(resource, obj["metadata"]["name"], namespace)
        world.close()


def create(world: World, resource: ResourceType, name: str, spec: Object) -> None:
    body = {"apiVersion": resource.api_version, "kind": resource.kind, "spec": spec}
    world.kube.create(resource, {**body, "metadata": {"name": name, "namespace": world.namespace}})


def group(world: World, container: dict[str, Any], replicas: int = 1) -> None:
    spec = {
        "template": {"spec": {"containers": [container]}},
        "objectives": {"timeToFirstTokenMilliseconds": 1000},
        "metrics": {"models": ["m"]},
        "accelerators": {"maximum": 8},
    }
    create(world, INFERENCE_GROUPS, "llama", spec)
    for name, stage in (("prefill", "Prefill"), ("decode", "Decode")):
        role = {
            "groupRef": {"name": "llama"},
            "stage": stage,
            "replicas": replicas,
            "maxReplicas": 4,
            "profileRef": {"name": "none"},
        }
        create(world, INFERENCE_ROLES, name, role)


def message(obj: Object | None, kind: str) -> str:
    found = (obj or {}).get("status", {}).get("conditions", [])
    return next((one["message"] for one in found if one["type"] == kind), "")


@pytest.fixture
def deep_json() -> Iterator[None]:
    """This process writes and reads what a tenant may."""
    levels = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    yield
    sys.setrecursionlimit(levels)


@pytest.mark.usefixtures("deep_json")
def test_a_misspelt_field_of_a_template_is_refused_by_name_and_not_dropped(world: World) -> None:
    group(world, {**CONTAINER, "readynessProbe": {"httpGet": {"path": "/", "port": 80}}})
    world.start_operator()

    def role() -> Object | None:
        return world.kube.get(INFERENCE_ROLES, "decode", world.namespace)

    eventually(lambda: reason(role(), "Ready") == "TemplateInvalid", what="the role says so")
    assert 'unknown field "spec.containers[0].readynessProbe"' in message(role(), "Ready")
    llama = world.kube.get(INFERENCE_GROUPS, "llama", world.namespace)
    assert reason(llama, "Ready") == "TemplateInvalid"
    assert world.kube.list(PODS, world.namespace) == []

    fixed = {"spec": {"template": {"spec": {"containers": [CONTAINER]}}}}
    world.kube.patch(INFERENCE_GROUPS, "llama", fixed, world.namespace)
    eventually(lambda: len(world.kube.list(PODS, world.namespace)) == 2, what="both pods are made")
    eventually(lambda: reason(role(), "Ready") == "Progressing", what="the role waits for its pod")

    # Deeper than Python's parser goes by itself: it costs its own role, and the operator works on.
    deep: dict[str, Any] = {}
    for _ in range(2_000):
        deep = {"n": deep}
    spec = {
        "groupRef": {"name": "llama"},
        "stage": "Decode",
        "maxReplicas": 1,
        "profileRef": {"name": "none"},
    }
    create(
        world, INFERENCE_ROLES, "odd", {**spec, "template": {"spec": {"containers": [CONTAINER], "n": deep}}}
    )
    world.logical_node("trainer")
    eventually(lambda: condition(world.get("trainer"), "Bound") == "False", what="others are answered")

    def odd() -> Object | None:
        return world.kube.get(INFERENCE_ROLES, "odd", world.namespace)

    eventually(lambda: 'unknown field "spec.n"' in message(odd(), "Ready"), what="the role says so")


def test_pods_that_pod_security_refuses_come_when_the_namespace_allows_them(world: World) -> None:
    label = {"metadata": {"labels": {ENFORCE: "restricted"}}}
    world.kube.patch(NAMESPACES, world.namespace, label)
    group(world, CONTAINER)
    world.start_operator()

    def llama() -> Object | None:
        return world.kube.get(INFERENCE_GROUPS, "llama", world.namespace)

    eventually(lambda: reason(llama(), "Ready") == "PodRefused", what="the group says so")
    assert 'violates PodSecurity "restricted' in message(llama(), "Ready")
    assert condition(llama(), "Balanced") == "False"

    def about() -> set[str]:
        events = [one for one in world.kube.list(EVENTS, world.namespace) if one["reason"] == "PodRefused"]
        return {one["regarding"]["kind"] for one in events}

    eventually(lambda: about() == {"InferenceGroup", "InferenceRole"}, what="an event about each")
    world.kube.patch(NAMESPACES, world.namespace, {"metadata": {"labels": {ENFORCE: None}}})
    # Nobody edits the group: it is asked again by itself.
    eventually(lambda: len(world.kube.list(PODS, world.namespace)) == 2, 40, what="both pods are made")


def test_a_maximum_too_small_for_both_roles_is_held_and_what_a_lower_one_took_comes_back(
    world: World,
) -> None:
    group(world, CONTAINER, replicas=4)
    world.start_operator()

    def pods() -> dict[str, int]:
        found = [one["metadata"]["labels"]["weft.dev/role"] for one in world.kube.list(PODS, world.namespace)]
        return {name: found.count(name) for name in ("prefill", "decode")}

    def set_maximum(maximum: int) -> None:
        change = {"spec": {"accelerators": {"maximum": maximum}}}
        world.kube.patch(INFERENCE_GROUPS, "llama", change, world.namespace)

    def balanced() -> Object | None:
        return world.kube.get(INFERENCE_GROUPS, "llama", world.namespace)

    eventually(lambda: pods() == {"prefill": 4, "decode": 4}, what="all replicas have pods")
    set_maximum(1)
    eventually(lambda: reason(balanced(), "Balanced") == "BudgetTooSmall", what="the group says so")
    assert "decode 4, prefill 4 stays until" in message(balanced(), "Balanced")
    assert pods() == {"prefill": 4, "decode": 4}
    set_maximum(2)
    eventually(lambda: pods() == {"prefill": 1, "decode": 1}, what="one replica of each role is left")
    assert "6 of the replicas asked for" in message(balanced(), "Balanced")
    set_maximum(8)
    eventually(lambda: pods() == {"prefill": 4, "decode": 4}, what="what was left out is made again")
    eventually(lambda: reason(balanced(), "Balanced") != "BudgetTooSmall", what="nothing is left out")

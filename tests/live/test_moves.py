"""Replicas change their stage by a restart, by other hardware, and between Deployments, each since the load asks for it
and with the reason in the group's status, under real requests of which none fails or is cut.

A real API server and Prometheus, `weft run`, two fabric managers and HTTP engines; no part of `make test`:
`make test-live`.
"""

from __future__ import annotations

import asyncio
import copy
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from live.playing import DEPLOYMENT, Seen, World, until, whole
from weft.api.resources import LOGICAL_NODES, ResourceType
from weft.cluster import Object
from weft_playground.case import AUTO, Case
from weft_playground.demo.manifests import only, read
from weft_playground.demo.narrator import Narrator
from weft_playground.lag import LagMeter
from weft_playground.load import Target, run_load
from weft_playground.trace import Request

FIRST = {"prefill": 2, "decode": 3}
ANSWERS_SECONDS, PROMPTS_SECONDS = 50.0, 150.0
DEPLOYMENTS = ResourceType("apps", "v1", "deployments", "Deployment", True)


@pytest.fixture
def world(tool_paths: dict[str, Path], tmp_path: Path) -> Iterator[World]:
    with World(Case(), tool_paths, tmp_path / "logs") as world:
        yield world


def load() -> list[Request]:
    """What two prefill and three decode replicas carry, then what three and two do."""
    draw, at, found = random.Random(1), 0.0, []
    while at < ANSWERS_SECONDS + PROMPTS_SECONDS:
        answers = at < ANSWERS_SECONDS
        found.append(Request(at, 600 if answers else 1420, 180 if answers else 100))
        at += draw.expovariate(2.5 if answers else 4.6)
    return found


def group(world: World, flip: str) -> list[Object]:
    """The example with a fixed size, each role with a template, and nodes, of its own."""
    found = copy.deepcopy([only(world.examples.group, "EngineProfile"), *read("size/inference-group.yaml")])
    template = only(found, "InferenceGroup")["spec"].pop("template")
    for one in found:
        one["metadata"]["namespace"] = AUTO
        spec = one["spec"]
        if one["kind"] == "InferenceGroup":
            spec["metrics"]["preset"] = "quick"
            spec["rebalance"] = {"flip": flip}
            spec["accelerators"] = {"maximum": 12}
        elif one["kind"] == "InferenceRole":
            role = one["metadata"]["name"]
            spec["replicas"] = FIRST[role]
            spec["template"] = copy.deepcopy(template)
            spec["template"]["spec"]["containers"][0]["args"].append(f"--stage={role}")
            if flip == "Recompose":
                spec["node"]["accelerators"][0]["count"] = 2 if role == "decode" else 1
    return sorted(found, key=lambda one: one["kind"] == "InferenceGroup")


async def started(world: World) -> Seen:
    narrator = Narrator(io.StringIO())
    await world.start_cluster(narrator)
    await world.start_services(narrator)
    return Seen(world)


async def follows_the_load(seen: Seen) -> tuple[str, int]:
    """The reason of the first move, and how many answers there were while it was made; all are whole."""
    await until(lambda: seen.serving() == FIRST, "the first replicas serve")
    answers, requests = io.StringIO(), load()
    target = Target(AUTO, seen.world.fronts[AUTO], seen.world.examples.model_name)
    loading = asyncio.create_task(run_load([target], requests, answers, LagMeter()))
    await asyncio.sleep(ANSWERS_SECONDS)
    await until(
        lambda: (
            seen.serving().get("prefill", 0) > FIRST["prefill"]
            and seen.serving().get("decode", 0) < FIRST["decode"]
        ),
        "the split follows",
        PROMPTS_SECONDS,
    )
    reason: str = seen.status()["decision"]["reason"]
    await loading
    return reason, whole(answers.getvalue(), requests)


@pytest.mark.parametrize("flip", ["Restart", "Recompose"])
async def test_the_split_follows_the_load_by_new_engines_and_no_answer_is_cut(
    world: World, flip: str, record_property: Callable[[str, object], None]
) -> None:
    seen = await started(world)
    seen.apply((*world.examples.common, *group(world, flip)))
    reason, answers = await follows_the_load(seen)

    assert "prefill needs" in reason
    assert "accelerator-seconds" in reason, "it says what it costs"
    await until(lambda: seen.balanced()[0] == "AsDecided", "all is as decided")
    for pod in seen.ready():
        stage = pod["metadata"]["labels"]["weft.dev/role"]
        assert f"--stage={stage}" in pod["spec"]["containers"][0]["args"]
    held = [
        one["count"] for node in seen.kube.list(LOGICAL_NODES, AUTO) for one in node["spec"]["accelerators"]
    ]
    if flip == "Restart":
        assert held == [2] * 5
        assert {"TransferStarted", "TransferFinished"} <= seen.events()
    else:
        counts = seen.serving()
        assert sorted(held) == [1] * counts["prefill"] + [2] * counts["decode"]
        assert sum(held) <= FIRST["prefill"] + 2 * FIRST["decode"]
    report = await seen.remove()
    for name, value in (("reason", reason), ("answers", answers), ("attached", report.attaches)):
        record_property(name, value)


async def test_two_deployments_follow_the_load_and_no_answer_is_cut(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    seen = await started(world)
    objects = group(world, "None")
    name = world.examples.group_name
    for one in objects:
        if one["kind"] == "InferenceGroup":
            one["spec"]["rebalance"] = {"flip": "Label"}
        elif one["kind"] == "InferenceRole":
            role, spec = one["metadata"]["name"], one["spec"]
            template = spec.pop("template")
            labels = {"weft.dev/group": name, "weft.dev/role": role, "weft.dev/stage": role}
            deployment = {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": f"vllm-{role}", "namespace": AUTO},
                "spec": {
                    "replicas": FIRST[role],
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
                },
            }
            deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 60  # type: ignore[index]
            seen.kube.apply(DEPLOYMENTS, deployment)
            spec["scaleTargetRef"] = {
                "apiVersion": "apps/v1",
                "kind": DEPLOYMENT["kind"],
                "name": f"vllm-{role}",
            }
            for field in ("replicas", "node"):
                del spec[field]
    seen.apply(objects)
    reason, answers = await follows_the_load(seen)

    assert "prefill needs" in reason
    assert "TargetScaled" in seen.events()
    replicas = {
        role: (seen.kube.get(DEPLOYMENTS, f"vllm-{role}", AUTO) or {})["spec"]["replicas"] for role in FIRST
    }
    assert sum(replicas.values()) == sum(FIRST.values())
    record_property("reason", reason)
    record_property("answers", answers)

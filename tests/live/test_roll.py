"""A template that rolls, one that cannot run, and a pod that does not end, under real requests of which none is cut.

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
from typing import Any

import pytest

from live.playing import Seen, World, until, whole
from weft.api.resources import INFERENCE_GROUPS, PODS
from weft.cluster import Object
from weft_playground.case import AUTO, Case
from weft_playground.demo.manifests import only, read
from weft_playground.demo.narrator import Narrator
from weft_playground.lag import LagMeter
from weft_playground.load import Target, run_load
from weft_playground.trace import Request

REPLICAS = {"prefill": 2, "decode": 3}
MAXIMUM = 2 * sum(REPLICAS.values()) + 2
"""Accelerators: room for one replica more."""
LOAD_SECONDS = 150.0


@pytest.fixture
def world(tool_paths: dict[str, Path], tmp_path: Path) -> Iterator[World]:
    with World(Case(), tool_paths, tmp_path / "logs") as world:
        yield world


def objects(world: World) -> list[Object]:
    found = copy.deepcopy([only(world.examples.group, "EngineProfile"), *read("size/inference-group.yaml")])
    for one in found:
        one["metadata"]["namespace"] = AUTO
        if one["kind"] == "InferenceGroup":
            one["spec"]["metrics"]["preset"] = "quick"
            one["spec"]["rebalance"] = {"mode": "Paused"}
            one["spec"]["accelerators"] = {"maximum": MAXIMUM}
        elif one["kind"] == "InferenceRole":
            one["spec"]["replicas"] = REPLICAS[one["metadata"]["name"]]
    return sorted(found, key=lambda one: one["kind"] == "InferenceGroup")


def load() -> list[Request]:
    draw, at, found = random.Random(1), 0.0, []
    while at < LOAD_SECONDS:
        found.append(Request(at, 400, 60))
        at += draw.expovariate(2.0)
    return found


class Rolling(Seen):
    """The group, and its template."""

    def serves(self, image: str) -> bool:
        """Whether all there is to be serves, of this image."""
        found = [pod["spec"]["containers"][0]["image"] for pod in self.ready()]
        return found == [image] * sum(REPLICAS.values())

    def template(self, image: str, **spec: Any) -> None:
        (group,) = self.kube.list(INFERENCE_GROUPS, AUTO)
        template = copy.deepcopy(group["spec"]["template"])
        template["spec"]["containers"][0]["image"] = image
        template["spec"]["nodeSelector"] = None
        change = {**template, "spec": {**template["spec"], **spec}}
        self.kube.patch(INFERENCE_GROUPS, group["metadata"]["name"], {"spec": {"template": change}}, AUTO)


async def test_rolls_and_stuck_replicas_cut_no_answer_and_say_what_keeps_them(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    narrator = Narrator(io.StringIO())
    await world.start_cluster(narrator)
    await world.start_services(narrator)
    seen = Rolling(world)
    seen.apply((*world.examples.common, *objects(world)))
    first = "vllm-openai:placeholder"
    await until(lambda: seen.serves(first), "the first replicas serve")
    answers, requests = io.StringIO(), load()
    target = Target(AUTO, world.fronts[AUTO], world.examples.model_name)
    loading = asyncio.create_task(run_load([target], requests, answers, LagMeter()))

    seen.template("vllm-openai:second")
    await until(lambda: seen.serves("vllm-openai:second"), "it rolls")
    await until(lambda: seen.balanced()[0] == "AsDecided", "all is as decided")

    seen.template("vllm-openai:third", nodeSelector={"example.com/none": "there"})
    await until(lambda: seen.balanced()[0] == "WaitingForHardware", "it says what keeps it")
    name = next(
        pod["metadata"]["name"]
        for pod in seen.kube.list(PODS, AUTO)
        if pod["spec"]["containers"][0]["image"].endswith("third")
    )
    assert name in seen.balanced()[1]
    await asyncio.sleep(5)
    assert len(seen.ready()) == sum(REPLICAS.values()) - 1, "it goes no further"
    seen.template("vllm-openai:second")
    await until(lambda: seen.serves("vllm-openai:second"), "the old template takes its place")

    stuck = next(pod for pod in seen.ready() if pod["metadata"]["labels"]["weft.dev/role"] == "decode")
    stuck_name = stuck["metadata"]["name"]
    seen.kube.patch(PODS, stuck_name, {"metadata": {"finalizers": ["example.com/stays"]}}, AUTO)
    seen.kube.delete(PODS, stuck_name, AUTO)
    await until(lambda: seen.serves("vllm-openai:second"), "another one is made", 120)
    await until(lambda: seen.balanced()[0] == "ReplicaStuck", "it says which one does not end")
    assert stuck_name in seen.balanced()[1]
    seen.kube.patch(PODS, stuck_name, {"metadata": {"finalizers": None}}, AUTO)
    await until(lambda: seen.balanced()[0] == "AsDecided", "all is as decided")

    await loading
    record_property("answers", whole(answers.getvalue(), requests))
    report = await seen.remove()
    record_property("journal", f"{report.attaches} attached, {report.detaches} detached")

"""A group's size follows the load: a real API server and Prometheus, `weft run`, a fabric manager and HTTP engines.

It takes minutes and is no part of `make test`: `make test-live`.
"""

from __future__ import annotations

import asyncio
import copy
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from live.playing import World, until, whole
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    EVENTS,
    INFERENCE_GROUPS,
    LOGICAL_NODES,
    PODS,
)
from weft.cluster import Object
from weft.emulator import journal
from weft_dev.kube import Kube
from weft_playground.case import AUTO, Case, Split
from weft_playground.demo.manifests import only, read
from weft_playground.demo.narrator import Narrator
from weft_playground.demo.story import KINDS
from weft_playground.lag import LagMeter
from weft_playground.load import Target, run_load
from weft_playground.trace import Request

FIRST = Split(4, 4)
MAXIMUM = 20
LIGHT_SECONDS, HEAVY_SECONDS = 110.0, 70.0


@pytest.fixture
def world(tool_paths: dict[str, Path], tmp_path: Path) -> Iterator[World]:
    with World(Case(), tool_paths, tmp_path / "logs") as world:
        yield world


def group(world: World) -> list[Object]:
    """The example and its profile, in a namespace of their own."""
    profile = only(world.examples.group, "EngineProfile")
    objects = copy.deepcopy([profile, *read("size/inference-group.yaml")])
    for one in objects:
        one["metadata"]["namespace"] = AUTO
        if one["kind"] == "InferenceGroup":
            one["spec"]["metrics"]["preset"] = "quick"
    # The group comes last, so that its first decision knows all its roles.
    return sorted(objects, key=lambda one: one["kind"] == "InferenceGroup")


def load() -> list[Request]:
    """A request a second, which two replicas carry, then eight a second, which need about nine."""
    draw, at, found = random.Random(1), 0.0, []
    while at < LIGHT_SECONDS + HEAVY_SECONDS:
        light = at < LIGHT_SECONDS
        found.append(Request(at, 400 if light else 1200, 40 if light else 100))
        at += draw.expovariate(1.0 if light else 8.0)
    return found


class Watcher:
    """What was seen of the group while the load ran."""

    def __init__(self, kube: Kube, world: World) -> None:
        self._kube, self._world = kube, world
        self.most_accelerators = 0
        self.sizes: list[int] = []
        """Replicas that serve, as they changed."""
        self.reasons: list[str] = []
        self.attached: list[int] = []
        """Devices on hosts by the fabric manager's journal, as they changed."""

    def look(self) -> bool:
        pods = self._kube.list(PODS, AUTO)
        names = {one["metadata"]["name"] for one in (*pods, *self._kube.list(LOGICAL_NODES, AUTO))}
        self.most_accelerators = max(self.most_accelerators, 2 * len(names))
        status = (self._kube.list(INFERENCE_GROUPS, AUTO) or [{}])[0].get("status") or {}
        held = len(journal.check(self._world.journal_lines()).left_attached)
        for seen, now in (
            (self.sizes, status.get("readyReplicas", 0)),
            (self.reasons, (status.get("decision") or {}).get("reason", "")),
            (self.attached, held),
        ):
            if not seen or seen[-1] != now:
                seen.append(now)
        return False

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(0.3)


async def test_a_group_shrinks_and_grows_with_its_load_and_no_answer_is_cut(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    narrator = Narrator(io.StringIO())
    await world.start_cluster(narrator)
    await world.start_services(narrator)
    assert world.plane is not None
    kube = world.plane.client()
    for one in (*world.examples.common, *group(world)):
        if one["kind"] != "LogicalNode":
            kube.apply(KINDS[one["kind"]], one)

    def ready() -> int:
        (found,) = kube.list(INFERENCE_GROUPS, AUTO)
        return int((found.get("status") or {}).get("readyReplicas", 0))

    await until(lambda: ready() == FIRST.replicas, "the first replicas serve")
    watcher = Watcher(kube, world)
    watching = asyncio.create_task(watcher.run())
    answers = io.StringIO()
    target = Target(AUTO, world.fronts[AUTO], world.examples.model_name)
    requests = load()
    await run_load([target], requests, answers, LagMeter())
    watching.cancel()

    record_property("answers", whole(answers.getvalue(), requests))

    least = min(watcher.sizes)
    assert least < FIRST.replicas
    after = watcher.sizes[watcher.sizes.index(least) :]
    assert max(after) > least + 2
    assert watcher.most_accelerators <= MAXIMUM
    assert min(watcher.attached) < 2 * FIRST.replicas
    reasons = [one for one in watcher.reasons if one.startswith(("grows", "shrinks", "moves"))]
    assert reasons[0].startswith("shrinks by ")
    assert "minutes needed at most prefill" in reasons[0]
    assert any(one.startswith("grows by ") and "a new replica serves after" in one for one in reasons)
    told = {one["reason"] for one in kube.list(EVENTS, AUTO)}
    assert {"ScaledDown", "ScaledUp"} <= told

    kube.delete(INFERENCE_GROUPS, world.examples.group_name, AUTO)
    await until(lambda: not kube.list(DEVICE_ATTACHMENTS), "every device is given back")
    report = journal.check(world.journal_lines())
    assert report.double_attached == report.left_attached == ()
    for name in ("sizes", "attached", "reasons"):
        record_property(name, getattr(watcher, name))
    record_property("journal", f"{report.attaches} attached, {report.detaches} detached")

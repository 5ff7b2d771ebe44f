"""Flips by an HTTP call to the engine: what it answers proves nothing, labels follow what it tells afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from support.fleet import GROUP, NAMESPACE, Fleet
from support.inference import ANSWER_HEAVY
from weft.api.names import LABEL_STAGE
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES, PODS
from weft.balancing.controller import GroupController
from weft.balancing.engine_calls import EngineCalls
from weft.balancing.presets import PRESETS
from weft.cluster import Object

pytestmark = pytest.mark.virtual_time


class Engine:
    """An engine as SGLang 0.5.23 answers, with ways to lie."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.asked: list[Any] = []
        self.busy = self.lies = self.silent = self.broken = self.mute = False
        self.answers = asyncio.Event()
        self.under_way = 0
        self.most_under_way = 0

    async def switch(self, request: web.Request) -> web.Response:
        wanted = (await request.json())["new_role"]
        self.asked.append(wanted)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.silent:
                await self.answers.wait()
                self.stage = wanted
                assert request.transport is not None
                request.transport.abort()
        finally:
            self.under_way -= 1
        said = {"success": True, "message": "ok", "old_role": self.stage, "new_role": wanted}
        if self.busy:
            text = "instance is not idle; drain all requests before switching"
            said |= {"success": False, "message": text, "safe_to_restore": True}
            return web.json_response(said, status=400)
        if self.broken:
            said |= {"success": False, "message": "instance unhealthy", "safe_to_restore": False}
            return web.json_response(said, status=400)
        if not self.lies:
            self.stage = wanted
        return web.json_response(said)

    async def tell(self, request: web.Request) -> web.Response:
        return web.json_response({} if self.mute else {"disaggregation_mode": self.stage})


class Switching(Fleet):
    """Each pod has an address on the loopback, where an engine answers as long as the pod is there."""

    def __init__(self, port: int, **rebalance: Any) -> None:
        self.calls = EngineCalls()
        self.engines: dict[str, Engine] = {}
        self.uids: dict[str, str] = {}
        switch = PRESETS["sglang"].role_switch
        assert switch is not None
        switch = switch.model_copy(update={"port": port, "timeout_seconds": 20.0})
        vllm = PRESETS["vllm"]
        self.presets = {"vllm": type(vllm)(vllm.name, vllm.engine, vllm.front_end, 0.0, switch)}
        super().__init__(**{"flip": "HTTP", "drainFirst": None, "mode": "Paused", **rebalance})
        for role in ("prefill", "decode"):
            arguments = [f"--disaggregation-mode={role}", "--enable-pd-role-switch"]
            container = {"name": "engine", "image": "sglang:1", "args": arguments}
            template = {"spec": {"containers": [container]}}
            self.edit(INFERENCE_ROLES, role, lambda spec, one=template: spec.update(template=one))
        self.traffic = ANSWER_HEAVY

    def restart(self) -> None:
        self.controller = GroupController(
            self.cluster, {"default": self.source}, self.presets, (), self.calls
        )

    def play(self) -> None:
        super().play()
        for pod in self.pods():
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            if self.uids.get(name) != uid:
                self.uids[name] = uid
                mode = pod["spec"]["containers"][0]["args"][0].rpartition("=")[2]
                self.engines[name] = Engine(mode)
            number = int(name.rpartition("-")[2])
            status = {**pod["status"], "podIP": f"127.0.7.{number + 1}"}
            self.cluster._store((PODS, NAMESPACE, name), {**pod, "status": status})

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            await super().run(1)
            await asyncio.sleep(0.002)  # calls go on beside the passes

    def agree(self) -> bool:
        """Whether every engine serves what its pod's label says."""
        return all(
            self.engines[pod["metadata"]["name"]].stage == pod["metadata"]["labels"][LABEL_STAGE]
            for pod in self.pods()
        )

    async def move(self, seconds: int) -> None:
        """Two replicas go from decode to prefill."""
        for role, replicas in (("prefill", 5), ("decode", 4)):
            self.edit(INFERENCE_ROLES, role, lambda spec, n=replicas: spec.update(replicas=n))
        await self.run(seconds)

    def asked(self) -> int:
        return sum(len(one.asked) for one in self.engines.values())

    def every(self, **ways: bool) -> None:
        for one in self.engines.values():
            vars(one).update(ways)


@pytest.fixture
async def fleet() -> AsyncIterator[Switching]:
    app = web.Application()
    found: list[Switching] = []

    def engine(request: web.Request) -> Engine:
        assert request.transport is not None
        number = int(request.transport.get_extra_info("sockname")[0].rpartition(".")[2]) - 1
        return found[0].engines[f"{GROUP}-{number}"]

    async def switch(request: web.Request) -> web.Response:
        return await engine(request).switch(request)

    async def tell(request: web.Request) -> web.Response:
        return await engine(request).tell(request)

    app.router.add_post("/pd_role_switch", switch)
    app.router.add_get("/model_info", tell)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0)
    await site.start()
    found.append(Switching(runner.addresses[0][1]))
    await found[0].run(10)
    yield found[0]
    await found[0].calls.close()
    await runner.cleanup()


@pytest.mark.shows("InferenceGroup.spec.rebalance.flip")
async def test_an_engine_is_asked_when_it_is_idle_and_gets_its_labels_when_it_tells_its_new_stage(
    fleet: Switching,
) -> None:
    before = {pod["metadata"]["uid"] for pod in fleet.pods()}
    await fleet.move(15)
    assert fleet.split() == fleet.serving() == {"prefill": 5, "decode": 4}
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == before, "no pod was replaced, nor rolled"
    assert fleet.agree()
    assert fleet.asked() == 2
    assert fleet.condition("Balanced") == ("True", "AsDecided")
    assert fleet.status()["updatedReplicas"] == 9


async def test_an_engine_with_requests_is_not_asked(fleet: Switching) -> None:
    fleet.requests = {f"{GROUP}-{number}": 2.0 for number in range(9)}
    await fleet.move(20)
    assert {one["step"] for one in fleet.status()["transfers"]} == {"Draining"}
    assert fleet.asked() == 0


async def test_an_engine_that_says_it_changed_and_did_not_keeps_its_labels_and_is_named(
    fleet: Switching,
) -> None:
    fleet.every(lies=True)
    await fleet.move(25)
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert fleet.agree()
    assert fleet.condition("Balanced") == ("False", "RoleSwitchIgnored")
    assert "still serves another stage" in fleet.message("Balanced")
    asked = fleet.asked()
    await fleet.run(20)
    assert fleet.asked() == asked <= 2, "no other replica is taken from its work for it"


async def test_an_engine_that_refuses_goes_back_to_its_work_and_its_words_are_said(fleet: Switching) -> None:
    fleet.every(busy=True)
    await fleet.move(15)
    assert fleet.serving() == {"prefill": 3, "decode": 6}
    assert fleet.condition("Balanced") == ("False", "RoleSwitchRefused")
    assert "not idle" in fleet.message("Balanced")


async def test_an_engine_that_breaks_in_the_change_is_replaced_by_one_of_its_old_role(
    fleet: Switching,
) -> None:
    before = {pod["metadata"]["uid"] for pod in fleet.pods()}
    fleet.every(broken=True)
    await fleet.move(35)
    replaced = before - {pod["metadata"]["uid"] for pod in fleet.pods()}
    assert replaced
    assert fleet.agree()


async def test_an_answer_that_is_lost_is_found_by_asking_what_the_engine_serves(fleet: Switching) -> None:
    fleet.every(silent=True)
    await fleet.move(20)
    assert {one["step"] for one in fleet.status()["transfers"]} == {"Switching"}
    for one in fleet.engines.values():
        one.answers.set()
    await fleet.run(20)
    assert fleet.serving() == {"prefill": 5, "decode": 4}
    assert fleet.agree()
    assert fleet.asked() == 2
    assert max(one.most_under_way for one in fleet.engines.values()) == 1


async def test_an_engine_that_does_not_tell_its_stage_is_not_asked_to_change_it(fleet: Switching) -> None:
    fleet.every(mute=True)
    await fleet.move(20)
    assert fleet.asked() == 0
    assert fleet.split() == {"prefill": 3, "decode": 6}


async def test_an_operator_that_is_killed_at_any_write_asks_again_and_goes_on(fleet: Switching) -> None:
    fleet.cluster.after_write = fleet.restart
    await fleet.move(20)
    assert fleet.serving() == {"prefill": 5, "decode": 4}
    assert fleet.agree()


async def test_an_engine_that_started_anew_with_its_old_arguments_is_replaced(fleet: Switching) -> None:
    await fleet.move(15)
    moved = next(name for name, one in fleet.engines.items() if one.asked)
    fleet.engines[moved].stage = "decode"
    pod: Object = fleet.cluster.objects[(PODS, NAMESPACE, moved)]
    at = {"lastTransitionTime": fleet.now.strftime("%Y-%m-%dT%H:%M:%SZ")}
    conditions = [
        {**one, **at} if one["type"] == "ContainersReady" else one for one in pod["status"]["conditions"]
    ]
    status = {**pod["status"], "conditions": conditions}
    fleet.cluster._store((PODS, NAMESPACE, moved), {**pod, "status": status})
    await fleet.run(20)
    assert fleet.serving() == {"prefill": 5, "decode": 4}
    assert fleet.agree()
    assert fleet.uids[moved] != pod["metadata"]["uid"]


async def test_without_a_call_in_the_preset_nothing_flips_and_it_is_said(fleet: Switching) -> None:
    fleet.edit(INFERENCE_GROUPS, GROUP, lambda spec: spec["rebalance"].update(mode="Auto"))
    fleet.presets = dict(PRESETS)
    fleet.restart()
    await fleet.move(20)
    assert fleet.condition("Balanced") == ("False", "FlipIncompatible")
    assert "role_switch" in fleet.message("Balanced")


async def test_a_pod_on_its_hosts_network_is_not_called(fleet: Switching) -> None:
    for pod in fleet.pods():
        spec = {**pod["spec"], "hostNetwork": True}
        fleet.cluster._store((PODS, NAMESPACE, pod["metadata"]["name"]), {**pod, "spec": spec})
    await fleet.move(15)
    assert {one["step"] for one in fleet.status()["transfers"]} == {"Switching"}
    assert fleet.asked() == 0

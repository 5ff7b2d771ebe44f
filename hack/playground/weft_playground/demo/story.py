"""The demo from its first server to its verdict: what happens in which order, and what is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weft.api import resources
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    STORAGE_POOLS,
    ResourceType,
)
from weft.cluster import NotFoundError, Object
from weft_dev.kube_async import AsyncKube, connected
from weft_playground.case import ACCELERATORS_PER_REPLICA, MODES, Case, Split
from weft_playground.demo import evidence, manifests, status_page
from weft_playground.demo.facts import GroupFacts, condition
from weft_playground.demo.kind_world import KindWorld
from weft_playground.demo.narrator import Narrator
from weft_playground.demo.picture import picture, poster
from weft_playground.demo.rehearsal import Rehearsed, rehearse
from weft_playground.demo.report import (
    Evidence,
    Verdict,
    quantile,
    read_results,
    share_within,
    summary,
    verdict,
)
from weft_playground.demo.watching import Watching
from weft_playground.demo.world import LoopbackWorld
from weft_playground.lag import Lag, worst
from weft_playground.profile import read_profile
from weft_playground.trace import Request, prompt_per_answer_token

KINDS = {each.kind: each for each in vars(resources).values() if isinstance(each, ResourceType)}
WAIT_SECONDS = 60.0
GROUP_SECONDS = 180.0
"""Real engines take a minute on two busy cores."""
PROGRESS_SECONDS = 5.0
RECENT_SECONDS = 10.0
PICTURE = Path("build", "demo.html")
POSTER = PICTURE.with_suffix(".svg")
PAGE = Path("build", "demo-ui.html")


class StoryError(Exception):
    """The demo cannot go on; the text says what did not happen."""


@dataclass
class Story:
    """One run. `keep`: stay up at the end instead of deleting everything; `ui`: with the status page beside it."""

    case: Case
    world: LoopbackWorld | KindWorld
    narrator: Narrator
    keep: bool = False
    ui: bool = False

    def __post_init__(self) -> None:
        self.objectives = self.world.examples.objectives
        self.requests: list[Request] = []
        self.split = Split(1, 1)
        self.page_url = ""

    async def run(self) -> Verdict:
        alive = asyncio.create_task(self.narrator.keep_alive())
        try:
            kubeconfig, _ = await asyncio.gather(
                self.world.start_cluster(self.narrator), asyncio.to_thread(self._choose_split)
            )
            await self.world.start_services(self.narrator)
            if self.ui:
                self.page_url = await asyncio.to_thread(
                    status_page.start, self.world.processes, kubeconfig, self.world.prometheus_url
                )
                self.narrator.say(f"watch it in a browser of this machine: {self.page_url}")
            async with connected(kubeconfig) as api:
                verdict = await self._play(api)
            if not self.keep:
                await self.world.remove(self.narrator)
            return verdict
        finally:
            alive.cancel()

    def _choose_split(self) -> None:
        """The split both groups start with: the one that suits the first stretch best, unless one was given."""
        requests = self.case.requests()
        first = [request for request in requests if request.at_seconds < self.case.shift_seconds]
        second = [request for request in requests if request.at_seconds >= self.case.shift_seconds]
        self.requests = requests
        replicas = self.case.replicas
        tried = rehearse(
            *(first, read_profile(), replicas, self.objectives),
            step_tokens=self.case.step_tokens,
            chance=self.case.chance(),
        )
        self.split = self.case.split or Split(tried[0].prefill, tried[0].decode)
        self.narrator.say(
            f"the load: {len(first)} requests at {prompt_per_answer_token(first):.1f} prompt tokens per answer token,"
            f" then {len(second)} at {prompt_per_answer_token(second):.1f}\n"
            f"all fixed splits of {replicas} replicas, tried on the first part in virtual time (within objectives):\n"
            f"{_tried_text(tried)}\n"
            f"they start with prefill:decode {self.split}"
            + (" as asked (SPLIT)" if self.case.split is not None else ", the best of them")
        )

    async def _play(self, api: AsyncKube) -> Verdict:
        budget = self.split.replicas * ACCELERATORS_PER_REPLICA
        watching = Watching(api, self.narrator, {name: GroupFacts(budget) for name in self.world.namespaces})
        following = asyncio.create_task(watching.run())
        try:
            await self._bind_logical_node(api, watching)
            await self._start_groups(api, watching)
            zero = await self._load(watching)
            lags = worst(await asyncio.to_thread(self.world.lags))
            attached = evidence.logical_nodes(
                watching, self.world.journal_lines(), self.world.examples.fabric
            )
            found = await asyncio.to_thread(
                evidence.gather,
                self.case,
                watching,
                zero,
                read_results(self.world.load.results),
                self.requests,
                self.split,
                attached,
                self.objectives,
            )
            counted, wrong = await asyncio.to_thread(self.world.counted)
            found = replace(found, counted=counted, wrong=wrong)
            self.narrator.show(summary(found))
            self._draw(found, [(at - zero, text) for at, text in watching.decisions if at >= zero])
            if self.keep:
                await self._stay()
            else:
                await self._delete(api)
            return verdict(self._with_end(found, lags))
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    def _draw(self, found: Evidence, decisions: Sequence[tuple[float, str]]) -> None:
        try:
            PICTURE.parent.mkdir(parents=True, exist_ok=True)
            PICTURE.write_text(picture(found, decisions), encoding="utf-8")
            POSTER.write_text(poster(found, decisions), encoding="utf-8")
        except OSError as error:
            self.narrator.say(f"the charts were not written: {error}")
            return
        self.narrator.say(f"the same as charts, each decision with its reason: {PICTURE}")

    async def _bind_logical_node(self, api: AsyncKube, watching: Watching) -> None:
        objects = self.world.examples.common
        logical_node = manifests.only(objects, "LogicalNode")
        for each in objects:
            await api.apply(KINDS[each["kind"]], each)
        pools = [each["metadata"]["name"] for each in objects if each["kind"].endswith("Pool")]
        with self.narrator.waiting("Weft discovers the fabric's devices", 3):
            await self._until(
                lambda: all(_total(watching.pools.get(name, {})) > 0 for name in pools),
                "every pool has devices",
            )
        found = ", ".join(f"{name} {_total(watching.pools[name])}" for name in pools)
        self.narrator.say(f"pools discovered (devices): {found}")
        where = (logical_node["metadata"]["namespace"], logical_node["metadata"]["name"])
        with self.narrator.waiting("one logical node with 4 GPUs and 2 TiB", 3):
            await self._until(
                lambda: condition(watching.logical_nodes.get(where, {}), "Bound")[0] == "True",
                f"logical node {'/'.join(where)} is Bound",
            )
        bound = watching.logical_nodes[where]
        devices = ", ".join(each["device"] for each in bound["status"]["devices"])
        self.narrator.say(f"{'/'.join(where)} is bound: {bound['status']['nodeName']} has {devices}")

    async def _start_groups(self, api: AsyncKube, watching: Watching) -> None:
        for each in manifests.all_groups(self.world.examples, self.split, self.world.namespaces):
            await api.apply(KINDS[each["kind"]], each)
        wanted = (self.split.prefill, self.split.decode)

        def serving() -> bool:
            facts = watching.facts.values()
            ready = all(condition(each, "Ready")[0] == "True" for each in watching.groups.values())
            split = all((each.census.prefill, each.census.decode) == wanted for each in facts)
            return split and ready and len(watching.groups) == len(self.world.namespaces)

        with self.narrator.waiting(
            f"groups of {self.split.replicas} replicas, {self.world.replicas_text}",
            15,
        ):
            await self._until(serving, f"every group serves with {self.split}", GROUP_SECONDS)
        names = " and ".join(f"{name} ({MODES[name]})" for name in self.world.namespaces)
        self.narrator.say(f"{names} serve with {self.split} replicas, {self.world.replicas_text}")

    async def _load(self, watching: Watching) -> float:
        """Run the load to its last token; returns its zero in monotonic time."""
        load = self.world.load
        zero = await asyncio.to_thread(load.start, self.world.examples.model_name, self.world.fronts)
        self.narrator.say("load: the same requests to each group, latencies from the scheduled send times")
        told_shift = False
        spoke = time.monotonic()
        while not load.ended():
            await asyncio.sleep(0.25)
            self.world.check()
            at = time.monotonic() - zero
            if at >= self.case.shift_seconds and not told_shift:
                told_shift = True
                self.narrator.say("the mix shifts: longer prompts, shorter answers")
            if time.monotonic() - spoke >= PROGRESS_SECONDS:
                spoke = time.monotonic()
                self.narrator.say(self._progress(watching, at))
                if self.page_url and at <= self.case.load_seconds:
                    await asyncio.to_thread(self._keep_page)
        return zero

    def _keep_page(self) -> None:
        """What the status page shows, the last of it while requests are sent: for a picture."""
        try:
            page = status_page.read(self.page_url)
            PAGE.parent.mkdir(parents=True, exist_ok=True)
            PAGE.write_bytes(page)
        except OSError as error:
            self.narrator.say(f"the status page was not kept: {error}")

    def _progress(self, watching: Watching, at: float) -> str:
        """How both groups did with the answers of the last seconds."""
        cells = []
        results = read_results(self.world.load.results)
        for name, facts in watching.facts.items():
            recent = [
                each
                for each in results.get(name, ())
                if each.scheduled + each.ttft + each.mean_inter_token * each.tokens > at - RECENT_SECONDS
            ]
            share = share_within(recent, self.objectives)
            first = quantile([each.ttft for each in recent], 0.5)
            text = (
                "no answers" if share is None else f"{share * 100:3.0f} % in time, first token {first:5.2f} s"
            )
            cells.append(f"{name} {facts.census}: {text}")
        where = "first stretch" if at < self.case.shift_seconds else "second stretch"
        if at > self.case.load_seconds:
            where = "all sent, last answers"
        return f"{where}, last {RECENT_SECONDS:.0f} s | " + " | ".join(cells)

    async def _delete(self, api: AsyncKube) -> None:
        with self.narrator.waiting("deleting everything; devices go back to their pools", 10):
            for namespace in self.world.namespaces:
                await _delete(api, INFERENCE_GROUPS, self.world.examples.group_name, namespace)
            for each in (await api.list(LOGICAL_NODES))[0]:
                if not each["metadata"].get("ownerReferences"):
                    await _delete(api, LOGICAL_NODES, each["metadata"]["name"], each["metadata"]["namespace"])

            async def gone() -> bool:
                kinds = (INFERENCE_GROUPS, LOGICAL_NODES, DEVICE_ATTACHMENTS)
                return not any([(await api.list(kind))[0] for kind in kinds])

            try:
                await self._until_async(gone, "groups, logical nodes and attachments are gone")
                for kind in (GPU_POOLS, MEMORY_POOLS, STORAGE_POOLS, FABRICS):
                    for each in (await api.list(kind))[0]:
                        await _delete(api, kind, each["metadata"]["name"])
            except StoryError as error:
                # The journal says what is left; the verdict rests on that.
                self.narrator.say(str(error))
        self.narrator.say("everything deleted")

    def _with_end(self, found: Evidence, lags: Sequence[Lag]) -> Evidence:
        """Add what is known only after the end: the journal, and how late everything ran."""
        at_end = evidence.with_end(found, self.world.journal_lines(), lags, deleted=not self.keep)
        if not self.keep and not at_end.left_attached:
            self.narrator.say("the fabric's journal: every device that was attached is detached again")
        for lag in lags:
            self.narrator.say(
                f"lateness of {lag.process}: p50 {lag.p50_seconds * 1000:.0f} ms, p99 {lag.p99_seconds * 1000:.0f} ms,"
                f" worst five seconds {lag.worst_mean_seconds * 1000:.0f} ms"
            )
        return at_end

    async def _stay(self) -> None:
        """Until Ctrl-C."""
        self.narrator.show(
            f"\nEverything stays up until Ctrl-C. To look around, in another shell:\n{self.world.to_look_at()}"
        )
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()

    async def _until(
        self, check: Callable[[], bool], what: str, timeout_seconds: float = WAIT_SECONDS
    ) -> None:
        async def checked() -> bool:
            return check()

        await self._until_async(checked, what, timeout_seconds)

    async def _until_async(
        self, check: Callable[[], Awaitable[bool]], what: str, timeout_seconds: float = WAIT_SECONDS
    ) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not await check():
            self.world.check()
            if time.monotonic() > deadline:
                raise StoryError(f"not seen within {timeout_seconds:.0f} s: {what}")
            await asyncio.sleep(0.1)


async def _delete(api: AsyncKube, resource: ResourceType, name: str, namespace: str = "") -> None:
    with contextlib.suppress(NotFoundError):
        await api.delete(resource, name, namespace)


def _total(pool: Object) -> int:
    return int(pool.get("status", {}).get("devices", {}).get("total", 0))


def _tried_text(tried: Sequence[Rehearsed]) -> str:
    ordered = sorted(tried, key=lambda each: each.prefill)
    return ", ".join(f"{each.prefill}:{each.decode} {each.share_within * 100:.0f} %" for each in ordered)

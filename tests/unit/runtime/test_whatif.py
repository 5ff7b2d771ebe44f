"""POST /plan: who may ask what, how much, and what of the answer they see."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console, RenderableType
from yarl import URL

from weft.api.inference_role import InferenceRole
from weft.api.resources import (
    INFERENCE_GROUPS,
    INFERENCE_ROLES,
    LOGICAL_NODES,
    ResourceType,
)
from weft.api.whatif import MOST_BYTES, MOST_OBJECTS, PLAN_AUDIENCE, TOKEN_HEADER
from weft.balancing.replicas import ANNOTATION_SHAPE, shape_of
from weft.binding.whatif import Answer, Forecast
from weft.cli.look import plan
from weft.cluster import ClusterError, Object
from weft.domains import DomainAnswer, DomainQuestion
from weft.runtime.cache import ObjectCache
from weft.runtime.health import HealthServer
from weft.runtime.whatif import BURST, MOST_AT_ONCE, WhatIf

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEAD = {"apiVersion": "weft.dev/v1alpha2"}


class Reviews:
    """An API server that knows tokens: `NAMESPACE AUDIENCE`."""

    async def create(self, resource: ResourceType, body: Object) -> Object:
        assert resource.kind == "TokenReview"
        namespace, _, audience = body["spec"]["token"].partition(" ")
        if namespace == "broken":
            raise ClusterError(500, "InternalError", "etcd is away")
        if audience not in body["spec"]["audiences"]:
            return {"status": {"authenticated": False}}
        if namespace == "a-person":
            user = {"username": "system:admin"}
        else:
            user = {"username": f"system:serviceaccount:{namespace}:default"}
        return {"status": {"authenticated": True, "user": user, "audiences": [audience]}}


class Bench:
    """The server with a search that remembers what it was asked."""

    def __init__(self) -> None:
        self.cache = ObjectCache()
        self.leads = True
        self.asked: list[Sequence[tuple[ResourceType, Object]]] = []
        self.answer: Answer | None = Answer(())
        self.domains: dict[str, DomainAnswer] = {}
        """By the attribute that is asked about."""
        self.seconds = 1000.0
        self.url = ""

    async def ask(self, changes: Sequence[tuple[ResourceType, Object]], now: datetime) -> Answer | None:
        self.asked.append(changes)
        assert now == NOW
        return self.answer

    async def ask_domain(self, question: DomainQuestion, now: datetime) -> DomainAnswer:
        return self.domains[question.attribute]

    async def post(self, body: Any, token: str = f"team-a {PLAN_AUDIENCE}") -> tuple[int, Object]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url, json=body, headers={TOKEN_HEADER: token} if token else {}) as answer,
        ):
            return answer.status, await answer.json()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    plan = WhatIf(
        Reviews(),  # type: ignore[arg-type]
        bench.cache,
        "weft-system",
        lambda: bench.leads,
        lambda: bench.seconds,
        lambda: NOW,
        bench.ask,
        bench.ask_domain,
    )
    server = HealthServer(CollectorRegistry(), lambda: True, lambda: True, dict, plan.answer)
    port = await server.start("127.0.0.1", 0)
    bench.url = f"http://127.0.0.1:{port}/plan"
    yield bench
    await server.stop()


def lnode(name: str = "new", namespace: str = "team-a", count: int = 2) -> Object:
    spec = {"accelerators": [{"name": "main", "count": count}]}
    return {**HEAD, "kind": "LogicalNode", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


FABRIC = {**HEAD, "kind": "Fabric", "metadata": {"name": "rack"}, "spec": {"endpoint": "https://rack"}}


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("", 401),
        ("team-a https://kubernetes.default.svc", 401),
        (f"a-person {PLAN_AUDIENCE}", 401),
        (f"broken {PLAN_AUDIENCE}", 503),
    ],
)
async def test_nobody_is_answered_without_a_token_for_this_very_question(
    bench: Bench, token: str, status: int
) -> None:
    told, body = await bench.post({"objects": [lnode()]}, token)
    assert (told, list(body)) == (status, ["error"])
    assert bench.asked == []


@pytest.mark.parametrize("body", [lnode(namespace="team-b"), FABRIC])
async def test_a_tenant_asks_about_the_requests_of_their_own_namespace_alone(
    bench: Bench, body: Object
) -> None:
    assert (await bench.post({"objects": [lnode()]}))[0] == 200
    assert (await bench.post({"objects": [lnode(), body]}))[0] == 403
    assert (await bench.post({"objects": [lnode(), body]}, f"weft-system {PLAN_AUDIENCE}"))[0] == 200
    assert len(bench.asked) == 2


async def test_a_tenant_learns_no_name_of_others_who_would_give_way_and_not_how_many(bench: Bench) -> None:
    waits = Forecast("team-a", "new", "waits", preempts=("team-a/own", "team-b/x", "team-b/y"))
    bench.answer = Answer((waits,))
    _, body = await bench.post({"objects": [lnode()]})
    assert body["nodes"][0]["preempts"] == ["team-a/own", "logical nodes of other namespaces"]
    _, body = await bench.post({"objects": [lnode()]}, f"weft-system {PLAN_AUDIENCE}")
    assert body["nodes"][0]["preempts"] == ["team-a/own", "team-b/x", "team-b/y"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([], 400),
        ({"objects": []}, 400),
        ({"objects": [lnode()] * (MOST_OBJECTS + 1)}, 400),
        ({"objects": ["x"]}, 400),
        ({"objects": [{**HEAD, "kind": "Secret", "metadata": {"name": "x"}}]}, 400),
        ({"objects": [{**lnode(), "apiVersion": "weft.dev/v9"}]}, 400),
        ({"objects": [{**lnode(), "metadata": {"name": "x"}}]}, 400),
        ({"objects": [{**lnode(), "spec": "x"}]}, 400),
        ({"objects": [lnode(), lnode(count=3)]}, 400),
        ({"objects": [lnode("x" * MOST_BYTES)]}, 413),
    ],
)
async def test_what_is_no_question_is_refused_in_words(bench: Bench, body: Any, status: int) -> None:
    told, answer = await bench.post(body)
    assert (told, bool(answer["error"])) == (status, True)
    assert bench.asked == []


async def test_who_goes_away_in_the_middle_of_a_question_leaves_no_traceback_and_no_turn_taken(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    address = URL(bench.url)
    for _ in range(MOST_AT_ONCE + 1):
        _, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST /plan HTTP/1.1\r\nHost: x\r\n{TOKEN_HEADER}: a {PLAN_AUDIENCE}\r\nContent-Length: 99\r\n\r\n{{"
        writer.write(head.encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert (await bench.post({"objects": [lnode()]}))[0] in (200, 429)
    bench.seconds += 60
    assert (await bench.post({"objects": [lnode()]}))[0] == 200
    assert caplog.records == []


async def test_a_replica_that_does_not_lead_answers_nothing(bench: Bench) -> None:
    bench.leads = False
    assert (await bench.post({"objects": [lnode()]}))[0] == 503
    bench.leads, bench.answer = True, None
    assert (await bench.post({"objects": [lnode()]}))[0] == 503


async def test_whoever_asks_without_end_is_told_to_wait_and_answered_later(bench: Bench) -> None:
    told = [(await bench.post({"objects": [lnode()]}))[0] for _ in range(BURST + 2)]
    assert told == [200] * BURST + [429] * 2
    bench.seconds += 1
    assert (await bench.post({"objects": [lnode()]}))[0] == 200


def group(maximum: int = 8) -> Object:
    spec = {
        "objectives": {"timeToFirstTokenMilliseconds": 500},
        "metrics": {"models": ["m"]},
        "accelerators": {"maximum": maximum},
    }
    return {
        **HEAD,
        "kind": "InferenceGroup",
        "metadata": {"name": "llama", "namespace": "team-a"},
        "spec": spec,
    }


def role(name: str, replicas: int, count: int = 2) -> Object:
    spec = {
        "groupRef": {"name": "llama"},
        "stage": name.capitalize(),
        "replicas": replicas,
        "maxReplicas": 200,
        "profileRef": {"name": "p"},
        "node": {"accelerators": [{"name": "main", "count": count}]},
    }
    return {**HEAD, "kind": "InferenceRole", "metadata": {"name": name, "namespace": "team-a"}, "spec": spec}


async def test_a_group_asks_for_a_logical_node_for_each_replica_within_its_budget(bench: Bench) -> None:
    _, body = await bench.post({"objects": [group(), role("prefill", 3), role("decode", 2)]})
    (asked,) = bench.asked
    assert {resource for resource, _ in asked} == {LOGICAL_NODES}
    # Five replicas of two accelerators do not fit into eight.
    assert len(asked) == 4
    assert sum(each["replicas"] for each in body["roles"]) == 4
    assert all("8" in each["message"] for each in body["roles"])


async def test_all_replicas_of_a_group_are_planned_in_one_domain_or_none_is(bench: Bench) -> None:
    asked = group(maximum=10)
    asked["spec"]["placement"] = {"sameDomain": "rdmaDomain"}
    objects = [asked, role("prefill", 3), role("decode", 2)]
    bench.domains["rdmaDomain"] = DomainAnswer("ib-1")
    await bench.post({"objects": objects})
    nodes = [raw for _, raw in bench.asked.pop()]
    assert [each["spec"]["accelerators"][0]["selector"] for each in nodes] == [
        {"matchAttributes": {"rdmaDomain": "ib-1"}}
    ] * 5
    bench.domains["rdmaDomain"] = DomainAnswer("", "none has room")
    _, body = await bench.post({"objects": objects})
    assert bench.asked == [[]]
    said = "no replica is made until there is a domain for all: none has room"
    assert [each["message"] for each in body["roles"]] == [said, said]


async def test_a_role_of_a_group_that_is_there_asks_for_what_it_lacks(bench: Bench) -> None:
    for number, (resource, raw) in enumerate(
        [
            (INFERENCE_GROUPS, group()),
            (INFERENCE_ROLES, role("prefill", 1)),
            (INFERENCE_ROLES, role("decode", 1)),
        ]
    ):
        status: Object = {}
        if resource == INFERENCE_GROUPS:
            status = {"allocation": [{"role": "prefill", "replicas": 1}, {"role": "decode", "replicas": 1}]}
        meta = {**raw["metadata"], "uid": f"u{number}", "resourceVersion": str(number + 1)}
        bench.cache.put(resource, {**raw, "metadata": meta, "status": status})
    labels = {"weft.dev/group": "llama", "weft.dev/role": "prefill"}
    there = {**lnode("llama-0")["metadata"], "uid": "n", "resourceVersion": "9", "labels": labels}
    bench.cache.put(LOGICAL_NODES, {**lnode(), "metadata": there})
    _, body = await bench.post({"objects": [role("prefill", 1, count=3)]})
    told = {each["name"]: (each["replicas"], each["there"], each["remade"]) for each in body["roles"]}
    assert told == {"prefill": (1, 1, ["llama-0"]), "decode": (1, 0, [])}


def running(bench: Bench, replicas: int) -> Object:
    """A group in Auto with so many replicas of each role, each with its logical node; the group as it is stored."""
    allocation = [{"role": name, "replicas": replicas} for name in ("decode", "prefill")]
    whole = group(maximum=16)
    whole["spec"]["template"] = {"spec": {"containers": [{"name": "engine", "image": "engine:1"}]}}
    found = [
        (INFERENCE_GROUPS, {**whole, "status": {"allocation": allocation}}),
        *((INFERENCE_ROLES, role(each["role"], replicas)) for each in allocation),
    ]
    for number in range(2 * replicas):
        name = ("decode", "prefill")[number % 2]
        node = lnode(f"llama-{number}")
        node["metadata"]["labels"] = {"weft.dev/group": "llama", "weft.dev/role": name}
        shape = shape_of(InferenceRole.model_validate(role(name, replicas)))
        node["metadata"]["annotations"] = {ANNOTATION_SHAPE: shape}
        found.append((LOGICAL_NODES, node))
    for number, (resource, raw) in enumerate(found):
        meta = {**raw["metadata"], "uid": f"u{number}", "resourceVersion": str(number + 1)}
        bench.cache.put(resource, {**raw, "metadata": meta})
    return whole


def text_of(shown: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=400, highlight=False, markup=False).print(shown)
    return out.getvalue()


async def planned(bench: Bench, *objects: Object) -> dict[str, Object]:
    _, body = await bench.post({"objects": list(objects)})
    return {each["name"]: each for each in body["roles"]}


async def test_a_lower_maximum_is_planned_with_the_replicas_and_the_accelerators_that_it_takes(
    bench: Bench,
) -> None:
    whole = running(bench, 4)
    whole["spec"]["accelerators"]["maximum"] = 4
    told = await planned(bench, whole)
    for each in told.values():
        assert (each["replicas"], each["ended"], each["released"], each["refused"]) == (1, 3, 6, False)
        assert each["message"].startswith("6 of the replicas asked for do not fit")
    shown_as = text_of(plan.shown(plan.Plan((), roles=tuple(told.values()))))
    assert "3 of its replicas would end, the least loaded first, and give back 6 accelerators" in shown_as
    assert shown_as.count("do not fit into accelerators.maximum") == 1, "of the group, not of each role"
    assert "InferenceGroup team-a/llama: 6 of the replicas" in shown_as


async def test_a_maximum_that_nothing_fits_into_is_planned_as_refused(bench: Bench) -> None:
    whole = running(bench, 4)
    whole["spec"]["accelerators"]["maximum"] = 3
    told = await planned(bench, whole)
    assert {(each["replicas"], each["ended"], each["refused"]) for each in told.values()} == {(4, 0, True)}
    answer = plan.Plan((), roles=tuple(told.values()))
    assert answer.refused
    assert "! InferenceGroup team-a/llama: accelerators.maximum, 3, has no room" in text_of(
        plan.shown(answer)
    )


async def test_a_changed_image_is_planned_with_how_many_replicas_it_makes_anew(bench: Bench) -> None:
    whole = running(bench, 4)
    assert {each["rolled"] for each in (await planned(bench, whole)).values()} == {0}
    whole["spec"]["template"] = {"spec": {"containers": [{"name": "engine", "image": "engine:2"}]}}
    told = await planned(bench, whole)
    assert {each["rolled"] for each in told.values()} == {4}
    text = text_of(plan.shown(plan.Plan((), roles=tuple(told.values()))))
    assert "4 replicas would be made anew, one after the other" in text


async def test_a_group_without_measured_profiles_and_with_equal_roles_lacks_nothing(bench: Bench) -> None:
    told = await planned(bench, running(bench, 4))
    assert {each["message"] for each in told.values()} == {""}


async def test_a_role_without_its_group_and_a_thousand_replicas_are_answered_in_words(bench: Bench) -> None:
    _, body = await bench.post({"objects": [role("prefill", 1)]})
    assert "no InferenceGroup llama" in body["roles"][0]["message"]
    many = [role(name, 150) for name in ("prefill", "decode")]
    assert (await bench.post({"objects": [group(100_000), *many]}))[0] == 413

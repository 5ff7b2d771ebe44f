"""A manager that misbehaves: every answer ends in an error that says whether a change may have happened."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from weft.fabric.errors import FabricError, InvalidRequest, OutcomeUnknown, Transient
from weft.fabric.redfish import RedfishDriver, transport

pytestmark = pytest.mark.virtual_time

BLOCKS = "/redfish/v1/CompositionService/ResourceBlocks"
SLED_0 = "/redfish/v1/Systems/sled-0"
GPU_0 = frozenset({"gpu-0"})
Manager = Any  # tests/unit/fabric/conftest.py
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def always(make: Callable[[], web.StreamResponse]) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return make()

    return answer


async def drop(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def half(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"a":')
    assert request.transport is not None
    request.transport.abort()
    return response


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def drip(request: web.Request) -> web.StreamResponse:
    """Never silent for long, and never done."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(300):
        await response.write(b" ")
        await asyncio.sleep(0.1)
    return response


async def huge(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(4096):
        await response.write(b" " * 65536)
    return response


async def not_http(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    request.transport.close()
    return web.Response()


MISBEHAVIOUR: dict[str, Answer] = {
    "drop": drop,
    "half": half,
    "hang": hang,
    "drip": drip,
    "huge": huge,
    "not http": not_http,
    "garbage": always(lambda: web.Response(text="<html>")),
    "no object": always(lambda: web.json_response([1, 2])),
    "deep": always(lambda: web.Response(text="[" * 100_000)),
    "not utf-8": always(lambda: web.Response(body=b"\xff\xfe\x00")),
    "500": always(lambda: web.json_response({}, status=500)),
    "500 garbage": always(lambda: web.Response(text="oops", status=500)),
    "200 with error": always(lambda: web.json_response({"error": {"code": "Base.1.0.GeneralError"}})),
}


@pytest.fixture
def short(manager: Manager, monkeypatch: pytest.MonkeyPatch, name: str) -> RedfishDriver:
    """A driver that takes small answers, and has a short timeout where the test has to wait for it."""
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 1 << 20)
    return RedfishDriver(
        manager.connection(request_timeout_seconds=1.0 if name in ("hang", "drip") else 20.0)
    )


@pytest.mark.parametrize("name", MISBEHAVIOUR)
async def test_a_read_that_fails_is_transient(manager: Manager, short: RedfishDriver, name: str) -> None:
    await short.attached("sled-0")
    manager.answers["GET", SLED_0] = MISBEHAVIOUR[name]
    with pytest.raises(Transient):
        await short.attached("sled-0")
    await short.close()


async def test_an_answer_is_read_up_to_a_bound(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 1 << 20)
    manager.answers["GET", SLED_0] = huge
    driver = RedfishDriver(manager.connection(request_timeout_seconds=30.0))
    with pytest.raises(Transient, match="larger than 1048576 bytes"):
        await driver.attached("sled-0")
    await driver.close()


@pytest.mark.parametrize("name", MISBEHAVIOUR)
@pytest.mark.parametrize("committed", [True, False])
async def test_a_write_that_fails_has_an_unknown_outcome_and_is_sent_once(
    manager: Manager, short: RedfishDriver, name: str, committed: bool
) -> None:
    async def act_and_misbehave(request: web.Request) -> web.StreamResponse:
        await (manager.act(request) if committed else request.read())
        return await MISBEHAVIOUR[name](request)

    manager.answers["PATCH", SLED_0] = act_and_misbehave
    with pytest.raises(OutcomeUnknown):
        await short.attach("a", "sled-0", GPU_0)
    assert [r for r in manager.requests if r[0] == "PATCH"] == [("PATCH", SLED_0)]
    assert await short.attached("sled-0") == (GPU_0 if committed else frozenset())
    await short.close()


async def test_a_claim_of_success_without_effect_is_seen_by_reading(
    manager: Manager, driver: RedfishDriver
) -> None:
    manager.answers["PATCH", SLED_0] = always(lambda: web.Response(status=204))
    await driver.attach("a", "sled-0", GPU_0)
    assert await driver.attached("sled-0") == frozenset()


@pytest.mark.parametrize("name", MISBEHAVIOUR)
async def test_one_unreadable_member_makes_the_inventory_incomplete(
    manager: Manager, short: RedfishDriver, name: str
) -> None:
    manager.answers["GET", f"{BLOCKS}/gpu-1"] = MISBEHAVIOUR[name]
    read = await short.inventory()
    assert [d.id for d in read.devices] == ["gpu-0", "gpu-2", "gpu-3"]
    assert not read.complete
    assert "gpu-1" in read.problems[0]
    await short.close()


async def test_a_failing_page_makes_the_inventory_incomplete(manager: Manager, driver: RedfishDriver) -> None:
    manager.page_size = 2

    async def second_page_fails(request: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=500) if "$skip" in request.query else await manager.act(request)

    manager.answers["GET", BLOCKS] = second_page_fails
    read = await driver.inventory()
    assert [d.id for d in read.devices] == ["gpu-0", "gpu-1"]
    assert not read.complete


async def test_one_failing_collection_is_incomplete_and_both_raise(
    manager: Manager, driver: RedfishDriver
) -> None:
    manager.answers["GET", BLOCKS] = drop
    read = await driver.inventory()
    assert read.devices == ()
    assert len(read.hosts) == 2
    assert not read.complete
    manager.answers["GET", "/redfish/v1/Systems"] = drop
    with pytest.raises(Transient):
        await driver.inventory()


async def test_a_manager_that_hangs_everywhere_does_not_hold_the_inventory_for_long(manager: Manager) -> None:
    for n in range(4, 60):
        manager.gpu(f"gpu-{n}")
    for n in range(60):
        manager.answers["GET", f"{BLOCKS}/gpu-{n}"] = hang
    driver = RedfishDriver(manager.connection(request_timeout_seconds=0.3, max_in_flight=4))
    read = await driver.inventory()
    assert not read.complete
    # The rest is left unread after a few failures (those in flight still end).
    assert sum("gpu-" in path for _, path in manager.requests) < 15
    await driver.close()


async def test_pages_that_lead_to_themselves_end(manager: Manager, driver: RedfishDriver) -> None:
    body = {"@odata.id": BLOCKS, "Members": [], "Members@odata.nextLink": f"{BLOCKS}?$skip=1"}
    manager.answers["GET", BLOCKS] = always(lambda: web.json_response(body))
    read = await driver.inventory()
    assert not read.complete
    assert any("no end" in p for p in read.problems)
    assert sum(path.startswith(BLOCKS) for _, path in manager.requests) < 5


async def test_pages_that_never_repeat_end_too(
    manager: Manager, driver: RedfishDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.fabric.redfish.reader.MAX_PAGES", 20)

    async def one_more(request: web.Request) -> web.StreamResponse:
        following = f"{BLOCKS}?$skip={int(request.query.get('$skip', '0')) + 1}"
        return web.json_response({"@odata.id": BLOCKS, "Members": [], "Members@odata.nextLink": following})

    manager.answers["GET", BLOCKS] = one_more
    assert not (await driver.inventory()).complete
    assert sum(path.startswith(BLOCKS) for _, path in manager.requests) == 21


async def test_fewer_members_than_counted_are_incomplete(manager: Manager, driver: RedfishDriver) -> None:
    body = {"@odata.id": BLOCKS, "Members": [{"@odata.id": f"{BLOCKS}/gpu-0"}], "Members@odata.count": 4}
    manager.answers["GET", BLOCKS] = always(lambda: web.json_response(body))
    read = await driver.inventory()
    assert not read.complete
    assert "1 of 4" in read.problems[0]


async def test_a_member_listed_twice_is_incomplete(manager: Manager, driver: RedfishDriver) -> None:
    body = {"@odata.id": BLOCKS, "Members": [{"@odata.id": f"{BLOCKS}/gpu-0"}] * 2}
    manager.answers["GET", BLOCKS] = always(lambda: web.json_response(body))
    read = await driver.inventory()
    assert [d.id for d in read.devices] == ["gpu-0"]
    assert not read.complete


@pytest.mark.parametrize("uri", [f"{BLOCKS}/gpu-2", "https://elsewhere/redfish/v1/x", 7])
async def test_another_resource_than_the_one_asked_for_is_refused(
    manager: Manager, driver: RedfishDriver, uri: object
) -> None:
    manager.resources[f"{BLOCKS}/gpu-1"]["@odata.id"] = uri
    read = await driver.inventory()
    assert [d.id for d in read.devices] == ["gpu-0", "gpu-2", "gpu-3"]
    assert not read.complete
    with pytest.raises(Transient):
        await driver.attach("a", "sled-0", frozenset({"gpu-1"}))
    assert manager.patches == []


@pytest.mark.parametrize(
    "link", ["http://169.254.169.254/redfish/v1/x", "/redfish/v1/../../x", "//elsewhere/redfish/x"]
)
async def test_a_link_that_leaves_the_manager_is_not_followed(
    manager: Manager, driver: RedfishDriver, link: str
) -> None:
    body = {"@odata.id": BLOCKS, "Members": [{"@odata.id": link}, {"@odata.id": f"{BLOCKS}/gpu-0"}]}
    manager.answers["GET", BLOCKS] = always(lambda: web.json_response(body))
    read = await driver.inventory()
    assert [d.id for d in read.devices] == ["gpu-0"]
    assert not read.complete
    assert all(path.startswith("/redfish/v1/") and ".." not in path for _, path in manager.requests)


async def test_a_redirect_to_another_place_is_refused_with_its_name(manager: Manager) -> None:
    manager.users = {"weft": "secret"}
    reached: list[str] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        reached.append(request.path)
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target = f"http://127.0.0.1:{runner.addresses[0][1]}/redfish/v1/x"
    for status in (302, 307):
        manager.answers["GET", SLED_0] = always(
            lambda s=status: web.Response(status=s, headers={"Location": target})
        )  # type: ignore[misc]  # the default binds the loop's value
        driver = RedfishDriver(manager.connection(username="weft", password="secret"))
        with pytest.raises(InvalidRequest, match=r"127\.0\.0\.1"):
            await driver.attached("sled-0")
        await driver.close()
    manager.answers["PATCH", SLED_0] = manager.answers.pop(("GET", SLED_0))
    driver = RedfishDriver(manager.connection(username="weft", password="secret"))
    with pytest.raises(InvalidRequest):
        await driver.attach("a", "sled-0", GPU_0)
    assert reached == []
    await driver.close()
    await runner.cleanup()


async def test_a_redirect_within_the_manager_is_followed_for_reads(
    manager: Manager, driver: RedfishDriver
) -> None:
    manager.resources[f"{SLED_0}-moved"] = manager.resources[SLED_0]
    manager.answers["GET", SLED_0] = always(
        lambda: web.Response(status=308, headers={"Location": f"{SLED_0}-moved"})
    )
    assert await driver.attached("sled-0") == frozenset()


async def test_redirects_in_a_circle_end(manager: Manager, driver: RedfishDriver) -> None:
    manager.answers["GET", SLED_0] = always(lambda: web.Response(status=302, headers={"Location": SLED_0}))
    with pytest.raises(FabricError):
        await driver.attached("sled-0")


async def test_a_promised_expand_that_is_refused_is_done_without(
    manager: Manager, driver: RedfishDriver
) -> None:
    manager.resources["/redfish/v1"]["ProtocolFeaturesSupported"] = {
        "ExpandQuery": {"NoLinks": True, "Levels": True}
    }

    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=501) if "$expand" in request.query else await manager.act(request)

    manager.answers["GET", BLOCKS] = refuse
    read = await driver.inventory()
    assert read.complete
    assert len(read.devices) == 4


async def test_an_empty_but_valid_collection_is_reported_as_it_is(
    manager: Manager, driver: RedfishDriver
) -> None:
    manager.resources[BLOCKS]["Members"] = []
    manager.resources["/redfish/v1/Systems/sled-1"]["Links"]["ResourceBlocks"] = []
    read = await driver.inventory()
    assert read.devices == ()
    assert read.complete

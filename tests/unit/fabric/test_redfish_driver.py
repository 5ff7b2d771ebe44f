"""What the driver does to a manager, and how little of a manager it needs."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from weft.fabric.driver import Operation, OperationPhase
from weft.fabric.errors import (
    AuthFailed,
    Busy,
    Conflict,
    InvalidRequest,
    NotFound,
    Transient,
    Unsupported,
)
from weft.fabric.installed import Guarded, open_driver
from weft.fabric.redfish import RedfishDriver

pytestmark = pytest.mark.virtual_time

BLOCKS = "/redfish/v1/CompositionService/ResourceBlocks"
SYSTEMS = "/redfish/v1/Systems"
SESSIONS = "/redfish/v1/SessionService/Sessions"
TASKS = "/redfish/v1/TaskService/Tasks"
SLED_0 = f"{SYSTEMS}/sled-0"
Manager = Any  # tests/unit/fabric/conftest.py


def gpus(*numbers: int) -> frozenset[str]:
    return frozenset(f"gpu-{n}" for n in numbers)


def test_the_driver_is_installed_under_its_name(manager: Manager) -> None:
    found = open_driver("redfish", manager.connection())
    assert isinstance(found, Guarded)
    assert isinstance(found.driver, RedfishDriver)


async def test_inventory_reads_a_manager_without_any_optional_feature(
    manager: Manager, driver: RedfishDriver
) -> None:
    read = await driver.inventory()
    assert read.complete
    assert read.problems == ()
    assert [d.id for d in read.devices] == ["gpu-0", "gpu-1", "gpu-2", "gpu-3"]
    assert read.devices[0].attributes == {"type": "GPU", "vendor": "NVIDIA", "model": "H200"}
    assert read.devices[0].capacity_bytes == 141 << 30
    assert [h.id for h in read.hosts] == ["sled-0", "sled-1"]
    assert read.attachments == (("gpu-3", "sled-1"),)


@pytest.mark.parametrize("option", ["members_under_links", "absolute_uris", "etags", "paged"])
async def test_inventory_is_the_same_however_the_manager_writes_it(
    manager: Manager, driver: RedfishDriver, option: str
) -> None:
    plain = await driver.inventory()
    if option == "paged":
        manager.page_size = 1
    else:
        setattr(manager, option, True)
    assert await driver.inventory() == plain


async def test_facts_of_devices_are_read_once(manager: Manager, driver: RedfishDriver) -> None:
    await driver.inventory()
    manager.requests.clear()
    await driver.inventory()
    # Two collections, four blocks, two systems; no processor again.
    assert len(manager.requests) == 8
    assert not any("Processors" in path for _, path in manager.requests)


async def test_a_device_that_was_exchanged_is_read_again(manager: Manager, driver: RedfishDriver) -> None:
    manager.etags = True
    await driver.inventory()
    manager.resources[f"{BLOCKS}/gpu-1/Processors/gpu-1"]["Model"] = "B200"
    manager.resources[f"{BLOCKS}/gpu-1"]["@odata.etag"] = '"other"'
    assert (await driver.inventory()).devices[1].attributes["model"] == "B200"


async def test_attach_writes_the_union_and_detach_what_remains(
    manager: Manager, driver: RedfishDriver
) -> None:
    done = await driver.attach("bind-1", "sled-0", gpus(0, 1))
    assert done == Operation("", OperationPhase.SUCCEEDED, "the manager says that it is done")
    await driver.attach("bind-2", "sled-0", gpus(1, 2))
    assert manager.listed("sled-0") == ["gpu-0", "gpu-1", "gpu-2"]
    assert await driver.attached("sled-0") == gpus(0, 1, 2)
    await driver.detach("bind-3", "sled-0", gpus(0, 2, 3))
    assert manager.listed("sled-0") == ["gpu-1"]
    assert manager.listed("sled-1") == ["gpu-3"]
    assert [h["Weft-Operation"] for h in manager.headers] == ["bind-1", "bind-2", "bind-3"]


async def test_attached_is_one_request_once_the_manager_is_known(
    manager: Manager, driver: RedfishDriver
) -> None:
    await driver.inventory()
    manager.requests.clear()
    assert await driver.attached("sled-1") == gpus(3)
    assert len(manager.requests) == 1


async def test_what_is_so_already_is_success_without_a_write(manager: Manager, driver: RedfishDriver) -> None:
    assert (await driver.attach("a", "sled-1", gpus(3))).phase is OperationPhase.SUCCEEDED
    assert (await driver.detach("b", "sled-1", gpus(0))).phase is OperationPhase.SUCCEEDED
    assert (await driver.attach("c", "sled-0", frozenset())).phase is OperationPhase.SUCCEEDED
    assert manager.patches == []


async def test_a_device_that_its_block_shows_at_our_host_is_not_written_again(
    manager: Manager, driver: RedfishDriver
) -> None:
    manager.resources[f"{BLOCKS}/gpu-0"]["Links"]["ComputerSystems"] = [{"@odata.id": SLED_0}]
    assert (await driver.attach("a", "sled-0", gpus(0))).phase is OperationPhase.SUCCEEDED
    assert manager.patches == []


async def test_a_device_at_another_host_is_a_conflict_that_names_it_and_nothing_is_written(
    manager: Manager, driver: RedfishDriver
) -> None:
    with pytest.raises(Conflict, match="gpu-3 is attached to sled-1"):
        await driver.attach("a", "sled-0", gpus(0, 3))
    assert manager.patches == []


async def test_a_write_carries_the_etag_of_what_was_read(manager: Manager, driver: RedfishDriver) -> None:
    manager.etags = True
    await driver.attach("a", "sled-0", gpus(0))
    await driver.attach("b", "sled-0", gpus(1))
    assert manager.listed("sled-0") == ["gpu-0", "gpu-1"]


async def test_a_change_in_between_is_a_conflict(manager: Manager, driver: RedfishDriver) -> None:
    manager.etags = True
    await driver.inventory()

    async def change_then_answer(request: web.Request) -> web.StreamResponse:
        answer = await manager.act(request)
        if request.method == "GET":
            manager.commit(SLED_0, {"Links": {"ResourceBlocks": [{"@odata.id": f"{BLOCKS}/gpu-2"}]}})
        return answer

    manager.answers["GET", SLED_0] = change_then_answer
    with pytest.raises(Conflict):
        await driver.attach("a", "sled-0", gpus(0))
    assert manager.listed("sled-0") == ["gpu-2"]


async def test_two_changes_to_one_host_at_once_keep_each_other(
    manager: Manager, driver: RedfishDriver
) -> None:
    await asyncio.gather(*(driver.attach(f"op-{n}", "sled-0", gpus(n)) for n in range(3)))
    assert manager.listed("sled-0") == ["gpu-0", "gpu-1", "gpu-2"]


@pytest.mark.parametrize(
    ("host", "device", "kind"),
    [
        ("sled-9", "gpu-0", NotFound),
        ("sled-0", "gpu-9", NotFound),
        ("../../x", "gpu-0", InvalidRequest),
        ("sled-0", "GPU\n0", InvalidRequest),
        ("sled-0", "../x", InvalidRequest),
    ],
)
async def test_names_that_do_not_exist_or_cannot_are_refused(
    driver: RedfishDriver, host: str, device: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        await driver.attach("a", host, frozenset({device}))


async def test_a_key_that_would_break_a_header_is_refused(manager: Manager, driver: RedfishDriver) -> None:
    with pytest.raises(InvalidRequest):
        await driver.attach("a\r\nX-Evil: 1", "sled-0", gpus(0))
    assert manager.patches == []


async def test_a_hosts_own_block_cannot_be_attached_and_is_no_device(
    manager: Manager, driver: RedfishDriver
) -> None:
    manager.put(
        f"{BLOCKS}/host-sled-1",
        ResourceBlockType=["ComputerSystem"],
        ComputerSystems=[{"@odata.id": f"{SYSTEMS}/sled-1"}],
        Links={"ComputerSystems": []},
    )
    manager.resources[f"{SYSTEMS}/sled-1"]["Links"]["ResourceBlocks"].append(
        {"@odata.id": f"{BLOCKS}/host-sled-1"}
    )
    assert await driver.attached("sled-1") == gpus(3)
    assert (await driver.inventory()).complete
    with pytest.raises(InvalidRequest):
        await driver.attach("a", "sled-0", frozenset({"host-sled-1"}))


# --- tasks


def with_tasks(manager: Manager) -> None:
    manager.put("/redfish/v1/TaskService", Tasks={"@odata.id": TASKS})
    manager.collection(TASKS)
    manager.resources["/redfish/v1"]["Tasks"] = {"@odata.id": "/redfish/v1/TaskService"}
    manager.resources["/redfish/v1"]["ProtocolFeaturesSupported"] = {"ExpandQuery": {"NoLinks": True}}

    async def accept(request: web.Request) -> web.StreamResponse:
        number = len(manager.patches)
        manager.patches.append(await request.json())
        payload = {"TargetUri": SLED_0, "HttpHeaders": [f"{k}: {v}" for k, v in request.headers.items()]}
        manager.put(f"{TASKS}/{number}", TaskState="Running", Payload=payload)
        return web.json_response(
            manager.resources[f"{TASKS}/{number}"],
            status=202,
            headers={"Location": f"/redfish/v1/monitors/{number}"},
        )

    manager.answers["PATCH", SLED_0] = accept


async def test_a_task_is_followed_until_it_ends(manager: Manager, driver: RedfishDriver) -> None:
    with_tasks(manager)
    started = await driver.attach("bind-1", "sled-0", gpus(0))
    assert started.phase is OperationPhase.RUNNING
    assert await driver.operation(started.id) == started
    manager.resources[started.id]["TaskState"] = "Completed"
    assert (await driver.operation(started.id)).phase is OperationPhase.SUCCEEDED
    del manager.resources[started.id]
    with pytest.raises(NotFound):
        await driver.operation(started.id)


async def test_an_operation_is_found_by_the_key_it_was_started_with(
    manager: Manager, driver: RedfishDriver
) -> None:
    with_tasks(manager)
    started = await driver.attach("bind-10", "sled-0", gpus(0))
    assert await driver.find_operation("bind-10") == started
    assert await driver.find_operation("bind-1") is None


async def test_operations_cannot_be_found_where_tasks_do_not_keep_the_request(
    manager: Manager, driver: RedfishDriver
) -> None:
    with pytest.raises(Unsupported):
        await driver.find_operation("bind-1")
    with_tasks(manager)
    await driver.close()
    again = RedfishDriver(manager.connection())
    manager.put(f"{TASKS}/9", TaskState="Running")
    with pytest.raises(Unsupported):
        await again.find_operation("bind-1")
    await again.close()


async def test_a_host_with_a_running_task_is_busy_also_for_a_new_process(
    manager: Manager, driver: RedfishDriver
) -> None:
    with_tasks(manager)
    started = await driver.attach("bind-1", "sled-0", gpus(0))
    restarted = RedfishDriver(manager.connection())
    for each in (driver, restarted):
        with pytest.raises(Busy, match=started.id):
            await each.attach("bind-2", "sled-0", gpus(1))
    assert len(manager.patches) == 1
    manager.resources[started.id]["TaskState"] = "Exception"
    for each in (driver, restarted):
        await each.detach("bind-3", "sled-0", gpus(1))
    await restarted.close()


async def test_an_accepted_change_without_a_task_to_follow_is_unknown(
    manager: Manager, driver: RedfishDriver
) -> None:
    async def accept(request: web.Request) -> web.StreamResponse:
        return web.Response(status=202, headers={"Location": "https://elsewhere/redfish/v1/task"})

    manager.answers["PATCH", SLED_0] = accept
    assert (await driver.attach("a", "sled-0", gpus(0))).phase is OperationPhase.UNKNOWN


async def test_a_task_monitor_ends_with_the_answer_of_the_request(
    manager: Manager, driver: RedfishDriver
) -> None:
    answers = [web.Response(status=202), web.Response(status=204), web.json_response({}, status=409)]

    async def next_answer(request: web.Request) -> web.StreamResponse:
        return answers.pop(0)

    manager.answers["GET", "/redfish/v1/monitors/1"] = next_answer
    phases = [(await driver.operation("/redfish/v1/monitors/1")).phase for _ in range(3)]
    assert phases == [OperationPhase.RUNNING, OperationPhase.SUCCEEDED, OperationPhase.FAILED]


async def test_another_task_than_the_one_asked_for_is_refused(
    manager: Manager, driver: RedfishDriver
) -> None:
    manager.put(f"{TASKS}/1", TaskState="Completed")
    manager.resources[f"{TASKS}/2"] = manager.resources[f"{TASKS}/1"]
    with pytest.raises(Transient, match="another task"):
        await driver.operation(f"{TASKS}/2")


@pytest.mark.parametrize("id", ["https://elsewhere/redfish/v1/Tasks/1", "/redfish/../x", "/emulator/faults"])
async def test_a_forged_operation_id_is_not_followed(
    manager: Manager, driver: RedfishDriver, id: str
) -> None:
    with pytest.raises(Transient):
        await driver.operation(id)
    assert manager.requests == []


# --- sessions


@pytest.fixture
async def user(manager: Manager) -> Any:
    manager.users = {"weft": "secret"}
    driver = RedfishDriver(manager.connection(username="weft", password="secret"))
    yield driver
    await driver.close()


def logins(manager: Manager) -> int:
    return manager.requests.count(("POST", SESSIONS))


async def test_one_login_serves_all_requests_and_ends_with_the_driver(
    manager: Manager, user: RedfishDriver
) -> None:
    await user.inventory()
    await user.attach("a", "sled-0", gpus(0))
    assert logins(manager) == 1
    await user.close()
    assert manager.tokens == {}


async def test_a_read_renews_a_session_that_has_ended(manager: Manager, user: RedfishDriver) -> None:
    await user.inventory()
    manager.tokens.clear()
    assert (await user.inventory()).complete
    assert logins(manager) == 2


async def test_a_write_under_a_revoked_session_is_not_repeated_under_a_new_one(
    manager: Manager, user: RedfishDriver
) -> None:
    await user.inventory()
    last_read = ("GET", f"{BLOCKS}/gpu-0")

    async def revoke_then_answer(request: web.Request) -> web.StreamResponse:
        answer = await manager.act(request)
        manager.tokens.clear()
        return answer

    manager.answers[last_read] = revoke_then_answer
    for _ in range(2):
        with pytest.raises(Transient, match="session"):
            await user.attach("a", "sled-0", gpus(0))
    assert manager.patches == []


async def test_wrong_credentials_are_tried_once_and_told(manager: Manager) -> None:
    manager.users = {"weft": "other"}
    driver = RedfishDriver(manager.connection(username="weft", password="secret"))
    answers = await asyncio.gather(driver.inventory(), driver.attached("sled-0"), return_exceptions=True)
    assert all(isinstance(a, AuthFailed) for a in answers), answers
    assert "credentials Secret" in str(answers[0])
    assert logins(manager) == 1
    await driver.close()


async def test_a_manager_without_context_is_logged_into_all_the_same(
    manager: Manager, user: RedfishDriver
) -> None:
    async def strict(request: web.Request) -> web.StreamResponse:
        if "Context" in await request.json():
            return web.json_response({"error": {"code": "Base.1.0.PropertyUnknown"}}, status=400)
        return await manager.act(request)

    manager.answers["POST", SESSIONS] = strict
    assert (await user.inventory()).complete


async def test_only_our_own_earlier_sessions_are_revoked(manager: Manager, user: RedfishDriver) -> None:
    manager.users["admin"] = "x"
    old = RedfishDriver(manager.connection(username="weft", password="secret"))
    await old.inventory()
    manager.log_in({"UserName": "admin", "Password": "x", "Context": "weft"})
    manager.requests.append(("", ""))  # the next session gets a path of its own
    manager.log_in({"UserName": "weft", "Password": "secret", "Context": "a person"})
    manager.requests.append(("", ""))
    manager.log_in({"UserName": "weft", "Password": "secret", "Context": "weft"})
    manager.resources[list(manager.tokens.values())[-1]]["SessionType"] = "WebUI"
    assert await user.revoke_other_sessions() == 1
    assert len(manager.tokens) == 4
    with pytest.raises(Transient, match="session"):
        await old.attach("late", "sled-0", gpus(0))
    assert manager.patches == []
    await old.close()


async def test_sessions_cannot_be_revoked_without_credentials(driver: RedfishDriver) -> None:
    assert not (await driver.capabilities()).revoke_sessions
    with pytest.raises(Unsupported):
        await driver.revoke_other_sessions()


async def test_the_host_and_the_devices_are_read_at_once_before_they_are_attached(manager: Manager) -> None:
    driver = RedfishDriver(manager.connection())
    await driver.inventory()
    paths = {f"{SYSTEMS}/sled-0", f"{BLOCKS}/gpu-0", f"{BLOCKS}/gpu-1"}
    arrived: set[str] = set()
    together = asyncio.Event()

    async def hold(request: web.Request) -> web.StreamResponse:
        arrived.add(request.path)
        if arrived == paths:
            together.set()
        async with asyncio.timeout(1.0):
            await together.wait()
        return await manager.act(request)

    for path in paths:
        manager.answers["GET", path] = hold
    await driver.attach("a", "sled-0", gpus(0, 1))
    assert await driver.attached("sled-0") == gpus(0, 1)
    await driver.close()


# --- limits


async def test_no_more_requests_are_in_flight_than_allowed(manager: Manager) -> None:
    running = most = 0

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return await manager.act(request)

    for path in manager.resources:
        manager.answers["GET", path] = slow
    driver = RedfishDriver(manager.connection(max_in_flight=2))
    assert (await driver.inventory()).complete
    assert most == 2
    await driver.close()


async def test_requests_keep_to_the_pace(manager: Manager) -> None:
    driver = RedfishDriver(manager.connection(requests_per_second=20.0))
    started = asyncio.get_running_loop().time()
    await driver.inventory()
    await driver.inventory()
    seconds = asyncio.get_running_loop().time() - started
    # A burst of one second's worth, then the rest at 20 a second.
    assert len(manager.requests) > 20
    assert seconds >= (len(manager.requests) - 20) / 20.0 - 0.001
    await driver.close()


async def test_a_write_that_did_not_get_its_turn_in_time_is_never_sent(manager: Manager) -> None:
    driver = RedfishDriver(
        manager.connection(max_in_flight=1, requests_per_second=0.9, request_timeout_seconds=2.0)
    )
    with pytest.raises(Transient, match="before the request was sent"):
        await driver.attach("a", "sled-0", gpus(0))
    assert manager.patches == []
    await driver.close()


async def test_a_manager_that_is_not_there_is_transient_also_for_writes(manager: Manager) -> None:
    driver = RedfishDriver(manager.connection(endpoint="http://127.0.0.1:1"))
    for call in (driver.inventory(), driver.attach("a", "sled-0", gpus(0))):
        with pytest.raises(Transient, match="cannot connect"):
            await call
    await driver.close()


@pytest.mark.parametrize("endpoint", ["https://fm/somewhere", "ftp://fm", "x"])
async def test_an_unusable_endpoint_is_told_by_the_first_call(manager: Manager, endpoint: str) -> None:
    driver = RedfishDriver(manager.connection(endpoint=endpoint))
    with pytest.raises(InvalidRequest, match="https://host:port"):
        await driver.inventory()
    await driver.close()


async def test_a_ca_bundle_without_certificates_is_told(manager: Manager) -> None:
    driver = RedfishDriver(manager.connection(endpoint="https://127.0.0.1:1", ca_pem="not a certificate"))
    with pytest.raises(AuthFailed, match="CA bundle"):
        await driver.inventory()
    await driver.close()


def test_the_password_is_not_in_the_connections_text(manager: Manager) -> None:
    assert "secret" not in repr(manager.connection(username="weft", password="secret"))


# --- what a manager may leave to other resources


async def test_drives_are_found_through_the_storage_of_a_block(
    manager: Manager, driver: RedfishDriver
) -> None:
    block, storage = f"{BLOCKS}/nvme-0", f"{BLOCKS}/nvme-0/Storage/1"
    manager.put(
        block, ResourceBlockType=["Storage"], Storage=[{"@odata.id": storage}], Links={"ComputerSystems": []}
    )
    manager.put(storage, Drives=[{"@odata.id": f"{storage}/Drives/1"}])
    manager.put(f"{storage}/Drives/1", Protocol="NVMe", CapacityBytes=4_000, Model="N4")
    read = await driver.inventory()
    assert read.complete
    drive = next(d for d in read.devices if d.id == "nvme-0")
    assert drive.capacity_bytes == 4_000
    assert drive.attributes == {"type": "NVMe", "medium": "NVMe", "model": "N4"}


@pytest.mark.parametrize("by_endpoint", [True, False])
async def test_domains_are_read_from_zones_by_block_or_by_endpoint(
    manager: Manager, driver: RedfishDriver, by_endpoint: bool
) -> None:
    fabric = "/redfish/v1/Fabrics/nv"
    manager.resources["/redfish/v1"]["Fabrics"] = {"@odata.id": "/redfish/v1/Fabrics"}
    for path in ("/redfish/v1/Fabrics", f"{fabric}/Zones", f"{fabric}/Endpoints"):
        manager.collection(path)
    zones, endpoints = {"@odata.id": f"{fabric}/Zones"}, {"@odata.id": f"{fabric}/Endpoints"}
    manager.put(fabric, FabricType="NVLink", Zones=zones, Endpoints=endpoints)
    processor = {"EntityLink": {"@odata.id": f"{BLOCKS}/gpu-1/Processors/gpu-1"}}
    manager.put(f"{fabric}/Endpoints/1", ConnectedEntities=[processor])
    by_block = {"ResourceBlocks": [{"@odata.id": f"{BLOCKS}/gpu-1"}]}
    links = {"Endpoints": [{"@odata.id": f"{fabric}/Endpoints/1"}]} if by_endpoint else by_block
    manager.put(f"{fabric}/Zones/nvl-0", ZoneType="ZoneOfEndpoints", Links=links)
    manager.put(f"{fabric}/Zones/all", ZoneType="Default", Links=by_block)
    read = await driver.inventory()
    assert read.complete
    assert {d.id: d.attributes.get("nvlinkDomain") for d in read.devices} == {
        "gpu-0": None,
        "gpu-1": "nvl-0",
        "gpu-2": None,
        "gpu-3": None,
    }
    # Zones change rarely: the next poll leaves them out.
    manager.requests.clear()
    assert await driver.inventory() == read
    assert not any("Fabrics" in path for _, path in manager.requests)


async def test_a_write_does_not_go_out_under_a_session_that_a_read_has_renewed(
    manager: Manager, user: RedfishDriver
) -> None:
    await user.inventory()

    async def revoke_and_let_a_poll_log_in_again(request: web.Request) -> web.StreamResponse:
        answer = await manager.act(request)
        del manager.answers["GET", SLED_0]
        manager.tokens.clear()
        await user.inventory()
        return answer

    manager.answers["GET", SLED_0] = revoke_and_let_a_poll_log_in_again
    with pytest.raises(Transient, match="session"):
        await user.attach("a", "sled-0", gpus(0))
    assert logins(manager) == 2
    assert manager.patches == []

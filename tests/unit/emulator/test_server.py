"""The service as a Redfish client meets it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any
from xml.etree import ElementTree

import pytest

Emulate = Callable[..., Awaitable[Any]]
BLOCKS = "/redfish/v1/CompositionService/ResourceBlocks"
SESSIONS = "/redfish/v1/SessionService/Sessions"
LOCKED = {"user": "weft", "password": "secret"}


async def test_an_attach_shows_on_the_system_and_on_the_block(rack: Any) -> None:
    status, system = await rack.send("sled-0", "gpu-0", "cxl-0")
    assert (status, rack.ids(system["Links"]["ResourceBlocks"])) == (200, ["gpu-0", "cxl-0"])
    block = await rack.block("gpu-0")
    assert block["CompositionStatus"]["CompositionState"] == "Composed"
    assert block["CompositionStatus"]["NumberOfCompositions"] == 1
    assert rack.ids(block["Links"]["ComputerSystems"]) == ["sled-0"]


async def test_leaving_a_block_out_of_the_list_detaches_it(rack: Any) -> None:
    await rack.send("sled-0", "gpu-0", "gpu-1")
    await rack.send("sled-0", "gpu-1")
    assert await rack.attached("sled-0") == ["gpu-1"]
    assert (await rack.block("gpu-0"))["CompositionStatus"]["CompositionState"] == "Unused"
    assert rack.journal("attach", "detach") == [
        ("attach", "sled-0", "gpu-0", "done"),
        ("attach", "sled-0", "gpu-1", "done"),
        ("detach", "sled-0", "gpu-0", "done"),
    ]


async def test_a_block_in_use_elsewhere_refuses_the_whole_request(rack: Any) -> None:
    await rack.send("sled-0", "gpu-0")
    status, body = await rack.send("sled-1", "gpu-1", "gpu-0")
    assert (status, rack.message_ids(body)) == (409, ["ResourceInUse"])
    pointers = [message["RelatedProperties"] for message in body["error"]["@Message.ExtendedInfo"]]
    assert pointers == [["#/Links/ResourceBlocks/1"]]
    assert await rack.attached("sled-1") == []
    assert rack.journal("refused") == [("refused", "sled-1", "gpu-0", "in-use")]


async def test_permissive_mode_shows_a_block_on_two_systems(emulate: Emulate) -> None:
    rack = await emulate(permissive=True)
    await rack.send("sled-0", "gpu-0")
    assert (await rack.send("sled-1", "gpu-0"))[0] == 200
    assert rack.ids((await rack.block("gpu-0"))["Links"]["ComputerSystems"]) == ["sled-0", "sled-1"]


async def test_permissive_mode_makes_a_change_whose_etag_is_out_of_date(emulate: Emulate) -> None:
    rack = await emulate(permissive=True)
    first = (await rack.get("Systems/sled-0"))["@odata.etag"]
    await rack.send("sled-0", "gpu-0")
    assert (await rack.send("sled-0", "gpu-1", headers={"If-Match": first}))[0] == 200
    assert await rack.attached("sled-0") == ["gpu-1"]


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ("{", "MalformedJSON"),
        ("[]", "MalformedJSON"),
        ("{}", "PropertyMissing"),
        ('{"Links": {}}', "PropertyMissing"),
        ('{"Links": 3}', "PropertyValueTypeError"),
        ('{"Links": {"ResourceBlocks": "gpu-0"}}', "PropertyValueTypeError"),
        ('{"Links": {"ResourceBlocks": ["gpu-0"]}}', "PropertyValueTypeError"),
        ('{"Links": {"Gears": []}}', "PropertyUnknown"),
        ('{"Gears": []}', "PropertyUnknown"),
        ('{"PowerState": "Off"}', "PropertyNotWritable"),
        (
            f'{{"Links": {{"ResourceBlocks": [{{"@odata.id": "{BLOCKS}/gpu-99"}}]}}}}',
            "PropertyValueNotInList",
        ),
        (
            f'{{"Links": {{"ResourceBlocks": [{{"@odata.id": "{BLOCKS}/host-sled-1"}}]}}}}',
            "PropertyValueNotInList",
        ),
        ('{"Links": {"ResourceBlocks": [{"@odata.id": "/elsewhere/gpu-0"}]}}', "PropertyValueNotInList"),
    ],
)
async def test_a_body_that_means_nothing_is_refused_with_a_registry_message(
    rack: Any, body: str, key: str
) -> None:
    async with rack.http.patch("/redfish/v1/Systems/sled-0", data=body) as response:
        assert (response.status, rack.message_ids(await response.json())) == (400, [key])


async def test_a_host_cannot_have_a_block_of_another_zone(rack: Any) -> None:
    status, body = await rack.send("far", "gpu-0")
    assert (status, rack.message_ids(body)) == (400, ["PropertyValueNotInList"])


async def test_a_stale_etag_is_refused_and_the_current_one_accepted(rack: Any) -> None:
    first = (await rack.get("Systems/sled-0"))["@odata.etag"]
    assert (await rack.send("sled-0", "gpu-0", headers={"If-Match": first}))[0] == 200
    status, body = await rack.send("sled-0", "gpu-1", headers={"If-Match": first})
    assert (status, rack.message_ids(body)) == (412, ["PreconditionFailed"])
    assert await rack.attached("sled-0") == ["gpu-0"]
    current = (await rack.get("Systems/sled-0"))["@odata.etag"]
    assert (await rack.send("sled-0", headers={"If-Match": current}))[0] == 200


async def test_an_etag_does_not_come_back_when_the_list_does(rack: Any) -> None:
    first = (await rack.get("Systems/sled-0"))["@odata.etag"]
    await rack.send("sled-0", "gpu-0")
    await rack.send("sled-0")
    assert (await rack.get("Systems/sled-0"))["@odata.etag"] != first


async def test_header_and_body_have_the_same_etag_and_it_gives_304(rack: Any) -> None:
    async with rack.http.get(f"{BLOCKS}/gpu-0") as response:
        etag = response.headers["ETag"]
        assert (await response.json())["@odata.etag"] == etag
    assert (
        await rack.status("CompositionService/ResourceBlocks/gpu-0", headers={"If-None-Match": etag}) == 304
    )
    await rack.send("sled-0", "gpu-0")
    assert (
        await rack.status("CompositionService/ResourceBlocks/gpu-0", headers={"If-None-Match": etag}) == 200
    )


async def test_two_writers_with_the_same_etag_cannot_both_win(emulate: Emulate) -> None:
    rack = await emulate(latency_milliseconds=5)
    etag = {"If-Match": (await rack.get("Systems/sled-0"))["@odata.etag"]}
    answers = await asyncio.gather(*(rack.send("sled-0", f"gpu-{n}", headers=etag) for n in range(3)))
    assert sorted(status for status, _ in answers) == [200, 412, 412]
    assert len(await rack.attached("sled-0")) == 1


async def test_two_hosts_that_want_one_block_at_once_do_not_both_get_it(emulate: Emulate) -> None:
    rack = await emulate(latency_milliseconds=5)
    answers = await asyncio.gather(rack.send("sled-0", "gpu-0"), rack.send("sled-1", "gpu-0"))
    assert sorted(status for status, _ in answers) == [200, 409]


async def test_expanded_blocks_contain_their_devices(rack: Any) -> None:
    collection = await rack.get("CompositionService/ResourceBlocks?$expand=.($levels=2)")
    blocks = {block["Id"]: block for block in collection["Members"]}
    assert len(blocks) == collection["Members@odata.count"] == 9
    assert blocks["gpu-3"]["Processors"][0]["MemorySummary"] == {"TotalMemorySizeMiB": 141 * 1024}
    assert blocks["cxl-0"]["Memory"][0]["CapacityMiB"] == 512 * 1024
    assert "CXL" in blocks["cxl-0"]["Memory"][0]
    assert blocks["nvme-0"]["Drives"][0]["CapacityBytes"] == 4 * 10**12
    assert blocks["host-far"]["ComputerSystems"][0]["Id"] == "far"
    assert set(blocks["gpu-0"]["Links"]["Zones"][0]) == {"@odata.id"}


async def test_an_expanded_collection_is_never_older_than_the_last_change(rack: Any) -> None:
    path = "CompositionService/ResourceBlocks?$expand=.($levels=2)"
    await rack.get(path)
    await rack.send("sled-0", "gpu-0")
    blocks = {block["Id"]: block for block in (await rack.get(path))["Members"]}
    assert blocks["gpu-0"]["CompositionStatus"]["CompositionState"] == "Composed"
    assert rack.ids(blocks["host-sled-0"]["ComputerSystems"][0]["Links"]["ResourceBlocks"]) == ["gpu-0"]


async def test_expanding_everything_also_replaces_links(rack: Any) -> None:
    await rack.send("sled-0", "gpu-0")
    system = await rack.get("Systems/sled-0?$expand=*")
    assert system["Links"]["ResourceBlocks"][0]["CompositionStatus"]["CompositionState"] == "Composed"
    assert set((await rack.get("Systems/sled-0?$expand=.")).keys()) == set(system)


async def test_pages_together_are_the_collection(emulate: Emulate) -> None:
    rack = await emulate(page_size=4)
    path, seen, sizes = f"{BLOCKS}?$expand=.", [], []
    while path:
        page = await rack.get(path)
        seen += [member["Id"] for member in page["Members"]]
        sizes.append(len(page["Members"]))
        assert page["Members@odata.count"] == 9
        path = page.get("Members@odata.nextLink", "")
    assert sizes == [4, 4, 1]
    assert len(set(seen)) == 9


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("$filter=Id", 501),
        ("$expand=all", 400),
        ("$expand=.($levels=9)", 400),
        ("$top=-1", 400),
        ("x=1", 200),
    ],
)
async def test_queries_that_are_not_supported_are_said_to_be(rack: Any, query: str, status: int) -> None:
    assert await rack.status(f"Systems?{query}") == status


async def test_domains_are_zones_of_a_fabric_named_by_its_type(rack: Any) -> None:
    assert (await rack.get("Fabrics/nvlink"))["FabricType"] == "NVLink"
    zones = (await rack.get("Fabrics/nvlink/Zones?$expand=."))["Members"]
    members = {zone["Id"]: rack.ids(zone["Links"]["ResourceBlocks"]) for zone in zones}
    assert members == {"nvl-0": ["gpu-0", "gpu-1"], "nvl-1": ["gpu-2", "gpu-3"]}
    endpoint = await rack.get(zones[0]["Links"]["Endpoints"][0]["@odata.id"])
    entity = endpoint["ConnectedEntities"][0]
    assert (await rack.get(entity["EntityLink"]["@odata.id"]))["ProcessorType"] == "GPU"


async def test_every_reference_leads_somewhere(rack: Any) -> None:
    await rack.send("sled-0", "gpu-0", "cxl-0", "nvme-0")
    waiting, seen = ["/redfish/v1"], set()

    def references(value: Any) -> list[str]:
        if isinstance(value, list):
            return [path for item in value for path in references(item)]
        if isinstance(value, dict):
            own = [value["@odata.id"]] if "@odata.id" in value else []
            return own + [path for item in value.values() for path in references(item)]
        return []

    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += [found.rstrip("/") for found in references(await rack.get(path))]
    assert len(seen) > 70


@pytest.mark.parametrize(
    ("method", "path", "status", "key"),
    [
        ("GET", "Systems/nobody", 404, "ResourceMissingAtURI"),
        ("PATCH", "Systems/nobody", 404, "ResourceMissingAtURI"),
        ("GET", "CompositionService/ResourceBlocks/gpu-0/Memory/gpu-0", 404, "ResourceMissingAtURI"),
        ("POST", "Systems", 405, "OperationNotAllowed"),
        ("DELETE", "Systems/sled-0", 405, "OperationNotAllowed"),
        ("DELETE", "TaskService/Tasks/7", 404, "ResourceMissingAtURI"),
    ],
)
async def test_wrong_paths_and_methods_get_redfish_errors(
    rack: Any, method: str, path: str, status: int, key: str
) -> None:
    async with rack.http.request(method, f"/redfish/v1/{path}") as response:
        assert (response.status, rack.message_ids(await response.json())) == (status, [key])


async def log_in(rack: Any, password: str = "secret") -> Any:
    body = {"UserName": "weft", "Password": password, "Context": "leader-1"}
    return await rack.http.post(SESSIONS, json=body)


async def test_without_a_session_only_the_root_is_readable(emulate: Emulate) -> None:
    rack = await emulate(**LOCKED)
    assert await rack.status("") == 200
    async with rack.http.get("/redfish/v1/Systems") as response:
        assert (response.status, rack.message_ids(await response.json())) == (
            401,
            ["ResourceAtUriUnauthorized"],
        )
    assert (await rack.send("sled-0", "gpu-0"))[0] == 401
    assert (await log_in(rack, "guess")).status == 401
    assert rack.journal("refused") == [("refused", "", "", "login")]


async def test_a_deleted_session_is_refused_at_once(emulate: Emulate) -> None:
    rack = await emulate(**LOCKED)
    login = await log_in(rack)
    assert login.status == 201
    assert (await login.json())["Context"] == "leader-1"
    own = {"X-Auth-Token": login.headers["X-Auth-Token"]}
    other = {"X-Auth-Token": (await log_in(rack)).headers["X-Auth-Token"]}
    async with rack.http.get(f"{SESSIONS}?$expand=.", headers=other) as response:
        assert [item["UserName"] for item in (await response.json())["Members"]] == ["weft", "weft"]
    assert await rack.status("Systems", headers=own) == 200
    async with rack.http.delete(login.headers["Location"], headers=other) as response:
        assert response.status == 204
    assert await rack.status("Systems", headers=own) == 401
    assert await rack.status("Systems", headers=other) == 200
    assert [act for act, *_ in rack.journal("login", "logout")] == ["login", "login", "logout"]


@pytest.mark.parametrize(
    ("credentials", "status"), [("weft:secret", 200), ("weft:guess", 401), ("weft", 401)]
)
async def test_basic_credentials_are_accepted_too(emulate: Emulate, credentials: str, status: int) -> None:
    rack = await emulate(**LOCKED)
    header = {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}
    assert await rack.status("Systems", headers=header) == status


async def test_an_idle_session_ends(emulate: Emulate) -> None:
    rack = await emulate(**LOCKED, session_timeout_seconds=0)
    token = (await log_in(rack)).headers["X-Auth-Token"]
    assert await rack.status("Systems", headers={"X-Auth-Token": token}) == 401


async def test_stats_count_requests_by_method(rack: Any) -> None:
    await rack.send("sled-0", "gpu-0")
    await rack.status("Systems/nobody")
    stats = await rack.get("/emulator/stats")
    assert stats["requests"]["byMethod"] == {"PATCH": 1, "GET": 1}
    assert stats["acts"]["attach"] == 1


async def test_the_same_seed_gives_the_same_latencies() -> None:
    from weft.emulator.changes import Latency

    first, second, other = (Latency(100, seed) for seed in (7, 7, 8))
    series = [first.seconds(1) for _ in range(2000)]
    assert series == [second.seconds(1) for _ in range(2000)]
    assert series[0] != other.seconds(1)
    assert 0.09 < sum(series) / len(series) < 0.11


async def test_metadata_is_open_and_names_the_service_root(emulate: Emulate) -> None:
    rack = await emulate(**LOCKED)
    async with rack.http.get("/redfish/v1/$metadata") as response:
        text = await response.text()
        assert (response.status, response.content_type) == (200, "application/xml")
    root = ElementTree.fromstring(text)
    [container] = root.iter("{http://docs.oasis-open.org/odata/ns/edm}EntityContainer")
    assert container.get("Extends") == "ServiceRoot.v1_17_0.ServiceContainer"
    assert any("ResourceBlock_v1.xml" in reference.get("Uri", "") for reference in root)


async def test_another_version_of_odata_is_refused(rack: Any) -> None:
    assert await rack.status("", headers={"OData-Version": "4.1"}) == 412
    assert await rack.status("", headers={"OData-Version": "4.0"}) == 200


async def test_a_resource_names_its_schema(rack: Any) -> None:
    async with rack.http.get(f"{BLOCKS}/gpu-0") as response:
        assert response.headers["Link"].endswith("/ResourceBlock.v1_4_2.json>; rel=describedby")


async def test_a_login_at_the_members_of_the_collection_is_a_login(emulate: Emulate) -> None:
    rack = await emulate(**LOCKED)
    login = {"UserName": "weft", "Password": "secret"}
    async with rack.http.post(f"{SESSIONS}/Members", json=login) as response:
        assert response.status == 201


async def test_the_account_and_the_roles_of_redfish_are_shown(emulate: Emulate) -> None:
    rack = await emulate(**LOCKED)
    basic = {"Authorization": "Basic " + base64.b64encode(b"weft:secret").decode()}
    async with rack.http.get("/redfish/v1/AccountService/Accounts/1", headers=basic) as response:
        account = await response.json()
    assert (account["UserName"], account["Password"], account["RoleId"]) == ("weft", None, "Administrator")
    assert await rack.status("AccountService/Roles/ReadOnly", headers=basic) == 200

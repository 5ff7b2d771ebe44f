"""How other people's managers speak HTTP: pages, names, redirects, logins."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.replay import (
    BLOCKS,
    ROOT,
    SESSIONS,
    SYSTEMS,
    Replay,
    Tree,
    block,
    case,
    link,
    rack,
    reading,
    system,
)
from weft.fabric.errors import AuthFailed, FabricError, InvalidRequest, Transient, Unsupported
from weft.fabric.redfish import RedfishDriver

USER = {"username": "weft", "password": "secret"}


def gpus(count: int) -> list[Tree]:
    return [block(f"{BLOCKS}/gpu-{n:02}") for n in range(count)]


def manager(tree: Tree | None = None, **more: Any) -> Replay:
    made = Replay(tree or rack(*gpus(2)))
    for name, value in more.items():
        setattr(made, name, value)
    return made


# --- collections


@pytest.mark.parametrize(
    "next_link",
    [
        lambda path, skip: f"?$skip={skip}",
        lambda path, skip: f"ResourceBlocks?$skip={skip}",
        lambda path, skip: f"{path}?$skip={skip}",
        lambda path, skip: {"@odata.id": f"{path}?$skip={skip}"},
    ],
)
async def test_pages_are_followed_however_the_next_one_is_named(
    next_link: Callable[[str, int], object],
) -> None:
    tree = case("nextlink-relative")
    blocks = sorted(p for p in tree if p.startswith(f"{BLOCKS}/") and p.count("/") == 5)
    tree[BLOCKS] = {**link(BLOCKS), "Members": [link(p) for p in blocks], "Members@odata.count": 23}
    async with reading(manager(tree, page_size=5, next_link=next_link)) as (_, driver):
        read = await driver.inventory()
    assert len(read.devices) == 23
    assert read.complete


async def test_a_relative_next_page_as_it_was_recorded_is_asked_for_at_its_collection() -> None:
    tree = case("nextlink-relative")
    names = [f"{BLOCKS}/gpu-{n}" for n in range(5, 23)]
    tree[f"{BLOCKS}?$skip=5"] = {**link(BLOCKS), "Members": [link(n) for n in names]}
    async with reading(tree) as (_, driver):
        assert len((await driver.inventory()).devices) == 23


async def test_a_collection_may_call_itself_what_it_likes() -> None:
    async with reading(case("collection-odata-id-rie")) as (_, driver):
        read = await driver.inventory()
    assert [h.id for h in read.hosts] == ["sled-0", "sled-1"]
    assert read.complete


@pytest.mark.parametrize(
    "shape",
    [
        lambda links: {"Members": links},
        lambda links: {"Members": [entry["@odata.id"] for entry in links]},
        lambda links: {"Links": {"Members": links}},
        lambda links: {"Members": {entry["@odata.id"]: entry for entry in links}},
        lambda links: {"Members": [None, *links]},
        lambda links: {"Members": [{**entry, "Name": "a link with a name"} for entry in links]},
    ],
)
async def test_members_are_found_in_any_shape(shape: Callable[[list[Tree]], Tree]) -> None:
    tree = rack(*gpus(2))
    for path in (BLOCKS, SYSTEMS):
        tree[path] = {**link(path), **shape(tree[path]["Members"])}
    async with reading(tree) as (_, driver):
        read = await driver.inventory()
    assert ([d.id for d in read.devices], [h.id for h in read.hosts]) == (["gpu-00", "gpu-01"], ["sled-0"])
    assert (read.complete, read.problems) == (True, ())


@pytest.mark.parametrize("nothing", [{"Members": None}, {}, {"Members": 7}, {"Members": "?"}])
async def test_a_collection_that_names_no_members_is_not_taken_for_empty(nothing: Tree) -> None:
    tree = rack(*gpus(2))
    async with reading(tree) as (served, driver):
        whole = await driver.inventory()
        served.tree = tree | {BLOCKS: {**link(BLOCKS), **nothing}}
        read = await driver.inventory()
        assert read.devices == whole.devices
        assert read.unread.device_list
        served.tree = tree | {BLOCKS: {**link(BLOCKS), "Members": None, "Members@odata.count": 0}}
        assert (await driver.inventory()).devices == ()


async def test_services_are_found_where_the_links_to_them_are_plain_text_or_nothing() -> None:
    tree = rack(*gpus(2))
    tree[ROOT] |= {"Systems": SYSTEMS, "Fabrics": None, "Tasks": [], "Links": None}
    tree["/redfish/v1/CompositionService"] |= {"ResourceBlocks": BLOCKS, "ResourceZones": {}}
    async with reading(tree) as (_, driver):
        read = await driver.inventory()
    assert ([d.id for d in read.devices], [h.id for h in read.hosts]) == (["gpu-00", "gpu-01"], ["sled-0"])
    assert (read.complete, read.problems) == (True, ())


async def test_links_with_another_name_of_the_manager_say_what_to_set() -> None:
    text = json.dumps(rack(*gpus(2))).replace(
        '"@odata.id": "/redfish', '"@odata.id": "https://fm.inner:8443/redfish'
    )
    async with reading(json.loads(text)) as (_, driver):
        with pytest.raises(FabricError, match=r"lead to https://fm\.inner:8443.*set spec\.endpoint"):
            await driver.inventory()


# --- slashes and redirects


def slashed(tree: Tree) -> Tree:
    """The tree of a manager that spells all its resources with a slash at their end."""
    text = json.dumps(tree)
    for path in sorted(tree, key=len, reverse=True):
        text = text.replace(f'"{path.rstrip("/")}"', f'"{path.rstrip("/")}/"')
    spelled: Tree = json.loads(text)
    return spelled


async def test_a_manager_that_spells_its_paths_with_a_slash_is_asked_so() -> None:
    served = manager(slashed(rack(*gpus(2))))
    served.key = lambda path: path  # type: ignore[method-assign]  # without its slash nothing is found
    async with reading(served) as (_, driver):
        read = await driver.inventory()
        assert ([d.id for d in read.devices], read.complete) == (["gpu-00", "gpu-01"], True)
        patches: list[Tree] = []

        def take(path: str, body: Tree) -> int:
            patches.append(body)
            return 204

        served.patch = take
        await driver.attach("a", "sled-0", frozenset({"gpu-00"}))
        assert served.requests[-1] == ("PATCH", f"{SYSTEMS}/sled-0/")
        assert patches == [{"Links": {"ResourceBlocks": [link(f"{BLOCKS}/gpu-00/")]}}]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_manager_that_redirects_to_the_path_with_a_slash_is_read_and_written(status: int) -> None:
    served = manager(slashed(rack(*gpus(2))), moved_status=status, users={"weft": "secret"})
    plain = [path.rstrip("/") for path in served.tree if path != ROOT]
    served.tree = json.loads(json.dumps(served.tree).replace('/"', '"')) | {
        path: json.loads(json.dumps(body).replace('/"', '"')) for path, body in served.tree.items()
    }
    served.moved = {path: f"{path}/" for path in (*plain, SESSIONS)}
    async with reading(served, **USER) as (_, driver):
        read = await driver.inventory()
        assert ([d.id for d in read.devices], read.complete) == (["gpu-00", "gpu-01"], True)
        served.patch = lambda path, body: 204
        await driver.attach("a", "sled-0", frozenset({"gpu-00"}))
        assert served.requests[-1] == ("PATCH", f"{SYSTEMS}/sled-0/")


async def test_a_root_without_its_slash_is_found() -> None:
    tree = rack(*gpus(2))
    tree["/redfish/v1"] = {**tree.pop(ROOT), "@odata.id": "/redfish/v1"}
    served = manager(tree)
    served.key = lambda path: path  # type: ignore[method-assign]  # with its slash nothing is found
    async with reading(served) as (_, driver):
        assert len((await driver.inventory()).devices) == 2


async def test_a_login_that_is_redirected_elsewhere_does_not_blame_the_credentials() -> None:
    served = manager(
        users={"weft": "secret"}, moved={SESSIONS: "https://fm.inner/redfish/v1/SessionService/Sessions"}
    )
    async with reading(served, **USER) as (_, driver):
        with pytest.raises(
            InvalidRequest, match=r"redirected to 'https://fm\.inner.*set the Fabric's endpoint"
        ) as told:
            await driver.inventory()
    assert "credentials" not in str(told.value)


async def test_a_login_that_the_manager_cannot_answer_does_not_blame_the_credentials() -> None:
    tree = rack(*gpus(2))
    served = manager(tree, users={"weft": "secret"}, failing_logins=500)
    async with reading(served, **USER) as (_, driver):
        with pytest.raises(Transient) as told:
            await driver.inventory()
    assert "credentials" not in str(told.value)


# --- logins


async def test_a_root_that_needs_a_login_is_read_under_one() -> None:
    served = manager(users={"weft": "secret"}, root_is_public=False)
    async with reading(served, **USER) as (_, driver):
        assert len((await driver.inventory()).devices) == 2
        await driver.attach("a", "sled-0", frozenset({"gpu-00"}))
    assert served.sessions == {}


@pytest.mark.parametrize("root_links", [{}, {"Sessions": link(SESSIONS)}])
async def test_http_basic_is_used_where_there_are_no_sessions(root_links: Tree) -> None:
    served = manager(users={"weft": "secret"}, basic=True, failing_logins=405 if root_links else 0)
    served.tree[ROOT]["Links"] = root_links
    async with reading(served, **USER) as (_, driver):
        assert len((await driver.inventory()).devices) == 2
        await driver.attach("a", "sled-0", frozenset({"gpu-00"}))
        assert await driver.attached("sled-0") == {"gpu-00"}
        assert not (await driver.capabilities()).revoke_sessions
        with pytest.raises(Unsupported):
            await driver.revoke_other_sessions()
    assert sum(method == "POST" for method, _ in served.requests) == 1


async def test_http_basic_is_used_where_even_the_root_asks_for_it() -> None:
    served = manager(users={"weft": "secret"}, basic=True, root_is_public=False)
    async with reading(served, **USER) as (_, driver):
        assert len((await driver.inventory()).devices) == 2


@pytest.mark.parametrize("basic", [True, False])
@pytest.mark.parametrize("root_is_public", [True, False])
async def test_wrong_credentials_are_tried_once_and_told(basic: bool, root_is_public: bool) -> None:
    served = manager(users={"weft": "other"}, basic=basic, root_is_public=root_is_public)
    async with reading(served, **USER) as (_, driver):
        with pytest.raises(AuthFailed, match="credentials Secret"):
            await driver.inventory()
        asked = len(served.requests)
        with pytest.raises(AuthFailed, match="credentials Secret"):
            await driver.inventory()
        # What needs no login may be asked for again.
        assert all(path.rstrip("/") == ROOT.rstrip("/") for _, path in served.requests[asked:])


@pytest.mark.parametrize(
    "location", ["https://fm.inner/redfish/v1/SessionService/Sessions/7", "", "Sessions/7"]
)
async def test_a_session_ends_when_the_driver_is_closed_whatever_the_manager_calls_it(location: str) -> None:
    served = manager(users={"weft": "secret"}, session_location=location)
    async with reading(served, **USER) as (_, driver):
        await driver.inventory()
        assert len(served.sessions) == 1
    assert served.sessions == {}


async def test_a_host_of_a_manager_without_resource_blocks_cannot_be_composed_and_it_says_why() -> None:
    tree = rack(system(f"{SYSTEMS}/a"))
    del tree[ROOT]["CompositionService"]
    async with reading(tree) as (served, driver):
        driver_: RedfishDriver = driver
        with pytest.raises(Unsupported, match="no CompositionService"):
            await driver_.attach("a", "a", frozenset({"gpu-0"}))
        assert [m for m, _ in served.requests if m != "GET"] == []

"""How changes are made at managers that others wrote: which idiom, and what is believed of the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from support.foreign import ADD, REMOVE, Foreign, message, with_actions
from support.replay import BLOCKS, ROOT, SYSTEMS, block, link, rack, reading, system
from weft.fabric.driver import OperationPhase
from weft.fabric.errors import Conflict, InvalidRequest, OutcomeUnknown, Unsupported
from weft.fabric.redfish import RedfishDriver

SLED_0, SLED_1 = f"{SYSTEMS}/sled-0", f"{SYSTEMS}/sled-1"
EXPAND = {"ProtocolFeaturesSupported": {"ExpandQuery": {"NoLinks": True}}}


def gpu(number: int) -> str:
    return f"{BLOCKS}/gpu-{number}"


def gpus(*numbers: int) -> frozenset[str]:
    return frozenset(f"gpu-{n}" for n in numbers)


def manager(idiom: str = "patch") -> Foreign:
    """Two hosts, each with a block of its own, and four GPUs, none of them attached."""
    own = {f"{BLOCKS}/own-{sled[-1]}": sled for sled in (SLED_0, SLED_1)}
    tree = rack(
        *(block(gpu(n)) for n in range(4)),
        *(
            block(
                uri,
                ResourceBlockType=["ComputerSystem"],
                ComputerSystems=[link(sled)],
                Links={"ComputerSystems": [link(sled)]},
            )
            for uri, sled in own.items()
        ),
        system(SLED_0),
        system(SLED_1),
    )
    if idiom == "actions":
        for sled in (SLED_0, SLED_1):
            with_actions(tree, sled)
    served = Foreign(tree)
    if idiom == "actions":
        served.allow[SLED_0] = served.allow[SLED_1] = "GET, HEAD"
    return served


async def writes(driver: RedfishDriver) -> list[str]:
    return [write.idiom for write in (await driver.capabilities()).writes]


IDIOMS = pytest.mark.parametrize("idiom", ["patch", "actions"])


class TestEveryIdiomOfResourceBlocks:
    @IDIOMS
    @pytest.mark.parametrize("kept", ["both", "system", "block"])
    async def test_devices_are_attached_and_released_whichever_side_the_manager_keeps(
        self, idiom: str, kept: str
    ) -> None:
        served = manager(idiom)
        served.kept = kept
        async with reading(served) as (_, driver):
            await driver.inventory()
            await driver.attach("a", "sled-0", gpus(0, 1))
            assert await driver.attached("sled-0") == gpus(0, 1)
            await driver.attach("b", "sled-0", gpus(2))
            assert await driver.attached("sled-0") == gpus(0, 1, 2)
            read = await driver.inventory()
            assert read.attachments == tuple((f"gpu-{n}", "sled-0") for n in range(3))
            assert read.complete
            await driver.detach("c", "sled-0", gpus(0, 2))
            assert await driver.attached("sled-0") == gpus(1)
            assert [uri for uri in served.blocks_of(SLED_0) if "gpu" in uri] == [gpu(1)]

    @IDIOMS
    @pytest.mark.parametrize("kept", ["both", "system", "block"])
    @pytest.mark.parametrize("known", ["not read", "read before", "another process"])
    async def test_a_device_that_another_host_has_is_a_conflict_and_nothing_is_written(
        self, idiom: str, kept: str, known: str
    ) -> None:
        served = manager(idiom)
        served.kept = kept
        async with reading(served) as (_, driver):
            if known == "another process":
                served.set_blocks(SLED_0, [gpu(0)])
            else:
                if known == "read before":
                    await driver.inventory()
                await driver.attach("a", "sled-0", gpus(0))
            before = len(served.changes)
            with pytest.raises(Conflict, match="gpu-0 is attached to sled-0, not to sled-1"):
                await driver.attach("b", "sled-1", gpus(0, 1))
            assert len(served.changes) == before

    @IDIOMS
    @pytest.mark.parametrize("kept", ["both", "system", "block"])
    async def test_what_is_so_already_is_not_written_again(self, idiom: str, kept: str) -> None:
        served = manager(idiom)
        served.kept = kept
        async with reading(served) as (_, driver):
            await driver.inventory()
            await driver.attach("a", "sled-0", gpus(0))
            await driver.attach("a", "sled-0", gpus(0))
            await driver.detach("b", "sled-0", gpus(1))
            assert len(served.changes) == 1

    @pytest.mark.parametrize(
        ("idiom", "etags"),
        [
            *((idiom, etags) for idiom in ("patch", "actions") for etags in ("strong", "weak", "new")),
            ("patch", "needed"),
        ],
    )
    async def test_etags_that_are_of_no_use_cost_a_fresh_reading_and_are_told(
        self, idiom: str, etags: str
    ) -> None:
        served = manager(idiom)
        served.etags = etags
        async with reading(served) as (_, driver):
            await driver.inventory()
            await driver.attach("a", "sled-0", gpus(0))
            await driver.detach("b", "sled-0", gpus(0))
            assert served.blocks_of(SLED_0) == []
            told = [note for note in (await driver.capabilities()).notes if "If-Match" in note]
            assert bool(told) is (etags in ("weak", "new"))
            if etags == "strong":
                by_header = served.conditions
                in_body = [body.get("ComputerSystemETag", "") for _, _, body in served.changes]
                assert all(by_header if idiom == "patch" else in_body)

    async def test_a_change_by_someone_else_is_not_overwritten_for_want_of_a_good_etag(self) -> None:
        served = manager()
        served.etags = "weak"

        def someone_else() -> web.Response:
            served.set_blocks(SLED_0, [gpu(3)])
            return web.json_response(message("PreconditionFailed"), status=412)

        served.answers["PATCH", SLED_0] = someone_else
        async with reading(served) as (_, driver):
            await driver.inventory()
            with pytest.raises(Conflict):
                await driver.attach("a", "sled-0", gpus(0))
            assert served.blocks_of(SLED_0) == [gpu(3)]
            assert len(served.changes) == 1

    @IDIOMS
    @pytest.mark.parametrize(
        "answer",
        [
            lambda: web.Response(status=500),
            lambda: web.json_response(message("ResourceInUse"), status=200),
            lambda: web.Response(status=502),
        ],
        ids=["500", "200 with an error", "502"],
    )
    @pytest.mark.parametrize("done", [True, False])
    async def test_an_answer_that_says_nothing_is_settled_by_reading(
        self, idiom: str, answer: Callable[[], web.Response], done: bool
    ) -> None:
        served = manager(idiom)
        where = ("PATCH", SLED_0) if idiom == "patch" else ("POST", f"{SLED_0}/Actions/{ADD}")
        (served.afterwards if done else served.answers)[where] = answer
        async with reading(served) as (_, driver):
            with pytest.raises(OutcomeUnknown):
                await driver.attach("a", "sled-0", gpus(0))
            assert await driver.attached("sled-0") == (gpus(0) if done else frozenset())
            assert await writes(driver) != ["None"]


class TestAddResourceBlock:
    async def test_the_actions_are_preferred_to_an_allow_header_that_may_mean_anything(self) -> None:
        served = manager("actions")
        served.allow[SLED_0] = "GET, HEAD, PATCH"
        async with reading(served) as (_, driver):
            await driver.inventory()
            assert (await writes(driver))[0] == "AddResourceBlock"
            await driver.attach("a", "sled-0", gpus(0, 1))
            await driver.detach("b", "sled-0", gpus(0))
            added, removed = f"{SLED_0}/Actions/{ADD}", f"{SLED_0}/Actions/{REMOVE}"
            assert served.writes() == [("POST", added), ("POST", added), ("POST", removed)]

    @pytest.mark.parametrize("target", [{}, {"target": None}, {"target": ""}])
    async def test_actions_that_are_only_named_are_not_offered(self, target: Any) -> None:
        """As kubevirtbmc lists them: all that the schema has, as empty objects."""
        served = manager()
        served.tree[SLED_0]["Actions"] = {f"#{ADD}": target, f"#{REMOVE}": target}
        async with reading(served) as (_, driver):
            await driver.inventory()
            assert await writes(driver) == ["ComposeByPatch"]

    async def test_what_could_not_be_removed_is_not_added(self) -> None:
        served = manager()
        for sled in (SLED_0, SLED_1):
            with_actions(served.tree, sled, ADD)
        served.allow[SYSTEMS] = "GET"
        async with reading(served) as (_, driver):
            await driver.inventory()
            with pytest.raises(Unsupported, match="no way to attach"):
                await driver.attach("a", "sled-0", gpus(0))
            assert served.changes == []

    async def test_the_target_is_the_managers_and_etags_are_parameters(self) -> None:
        served = manager("actions")
        served.etags = "strong"
        elsewhere = f"{SLED_0}/Actions/Oem/Compose"
        plain = served.change
        served.tree[SLED_0]["Actions"][f"#{ADD}"]["target"] = elsewhere
        served.change = lambda method, path, body: plain(  # type: ignore[method-assign]
            method, f"{SLED_0}/Actions/{ADD}" if path == elsewhere else path, body
        )
        async with reading(served) as (_, driver):
            await driver.attach("a", "sled-0", gpus(0))
            ((_, path, body),) = served.changes
            assert path == elsewhere
            assert sorted(body) == ["ComputerSystemETag", "ResourceBlock", "ResourceBlockETag"]
            assert served.blocks_of(SLED_0) == [gpu(0)]

    @pytest.mark.parametrize("says", ["nothing", "action info"])
    async def test_a_manager_of_before_the_etag_parameters_gets_none(self, says: str) -> None:
        served = manager("actions")
        served.etags = "strong"
        plain = served.act

        def strict(path: str, action: str, body: Any) -> web.Response:
            if set(body) != {"ResourceBlock"}:
                return web.json_response(message("ActionParameterUnknown"), status=400)
            return plain(path, action, body)

        served.act = strict  # type: ignore[method-assign]
        if says == "action info":
            info = f"{SLED_0}/AddInfo"
            served.tree[info] = {
                "@odata.id": info,
                "Id": "AddInfo",
                "Parameters": [{"Name": "ResourceBlock", "Required": True, "DataType": "Object"}],
            }
            served.tree[SLED_0]["Actions"][f"#{ADD}"]["@Redfish.ActionInfo"] = info
        async with reading(served) as (_, driver):
            await driver.attach("a", "sled-0", gpus(0))
            assert served.blocks_of(SLED_0) == [gpu(0)]
            assert len(served.changes) == (1 if says == "action info" else 2)

    async def test_a_block_that_is_not_among_the_allowed_values_is_refused_before_a_write(self) -> None:
        served = manager("actions")
        with_actions(
            served.tree,
            SLED_0,
            **{"ResourceBlock@Redfish.AllowableValues": [gpu(1), {"@odata.id": gpu(2)}]},
        )
        async with reading(served) as (_, driver):
            with pytest.raises(InvalidRequest, match="does not allow"):
                await driver.attach("a", "sled-0", gpus(0))
            assert served.changes == []
            await driver.attach("b", "sled-0", gpus(1, 2))
            assert await driver.attached("sled-0") == gpus(1, 2)

    async def test_a_refusal_after_some_blocks_were_added_is_no_refusal_of_all(self) -> None:
        """Whoever hears Conflict takes it that nothing was done, and would not release the first."""
        served = manager("actions")
        plain = served.act

        def second_is_refused(path: str, action: str, body: Any) -> web.Response:
            if body["ResourceBlock"]["@odata.id"] == gpu(1):
                return web.json_response(message("ResourceInUse"), status=409)
            return plain(path, action, body)

        served.act = second_is_refused  # type: ignore[method-assign]
        async with reading(served) as (_, driver):
            with pytest.raises(OutcomeUnknown, match="1 of 2"):
                await driver.attach("a", "sled-0", gpus(0, 1))
            assert await driver.attached("sled-0") == gpus(0)
            with pytest.raises(Conflict):
                await driver.attach("a", "sled-0", gpus(0, 1))

    async def test_each_block_waits_for_the_task_of_the_one_before(self) -> None:
        served = manager("actions")
        plain = served.change
        tasks = "/redfish/v1/TaskService/Tasks"

        def as_task(method: str, path: str, body: Any) -> web.Response:
            plain(method, path, body)
            task = f"{tasks}/{len(served.changes)}"
            served.tree[task] = {"@odata.id": task, "Id": task.rpartition("/")[2], "TaskState": "Completed"}
            running = served.tree[task] | {"TaskState": "Running"}
            return web.json_response(running, status=202, headers={"Location": task})

        served.change = as_task  # type: ignore[method-assign]
        async with reading(served) as (_, driver):
            operation = await driver.attach("a", "sled-0", gpus(0, 1))
            assert operation.phase is OperationPhase.RUNNING
            assert (await driver.operation(operation.id)).phase is OperationPhase.SUCCEEDED
            assert await driver.attached("sled-0") == gpus(0, 1)

    async def test_a_task_that_cannot_be_looked_at_is_an_unknown_outcome_and_no_refusal(self) -> None:
        served = manager("actions")
        plain = served.change
        task = "/redfish/v1/TaskService/Tasks/1"

        def as_task(method: str, path: str, body: Any) -> web.Response:
            plain(method, path, body)
            return web.json_response({}, status=202, headers={"Location": task})

        served.change = as_task  # type: ignore[method-assign]
        async with reading(served) as (_, driver):
            with pytest.raises(OutcomeUnknown, match="how it ended cannot be read"):
                await driver.attach("a", "sled-0", gpus(0, 1))
            assert await driver.attached("sled-0") == gpus(0)


class TestWhatAManagerOffers:
    async def test_a_host_that_alone_takes_no_patch_closes_itself_and_no_other(self) -> None:
        served = manager()
        served.expand = True
        served.tree[ROOT] |= EXPAND
        served.allow = {SLED_0: "GET", SLED_1: "GET, PATCH"}
        async with reading(served) as (_, driver):
            hosts = {host.id: host.closed for host in (await driver.inventory()).hosts}
            assert (bool(hosts["sled-0"]), hosts["sled-1"]) == (True, "")

    @pytest.mark.parametrize("allow", ["", " , ", "*"])
    async def test_an_allow_header_that_says_nothing_is_no_evidence_against(self, allow: str) -> None:
        served = manager()
        served.allow[SYSTEMS] = allow
        async with reading(served) as (_, driver):
            await driver.inventory()
            await driver.attach("a", "sled-0", gpus(0))
            assert await driver.attached("sled-0") == gpus(0)

    @pytest.mark.parametrize("expand", [True, False])
    async def test_a_manager_whose_systems_take_no_patch_offers_nothing_and_is_not_tried(
        self, expand: bool
    ) -> None:
        served = manager()
        served.allow[SYSTEMS] = "GET, HEAD"
        if expand:
            served.expand = True
            served.tree[ROOT] |= EXPAND
        async with reading(served) as (_, driver):
            read = await driver.inventory()
            (none,) = (await driver.capabilities()).writes
            assert none.idiom == "None"
            assert "its systems take GET, HEAD only" in none.evidence
            assert {host.closed for host in read.hosts} == {none.evidence}
            with pytest.raises(Unsupported, match="offers no way"):
                await driver.attach("a", "sled-1", gpus(0))
            assert served.changes == []

    async def test_an_allow_header_with_patch_is_evidence_and_none_is_no_hindrance(self) -> None:
        served = manager()
        async with reading(served) as (_, driver):
            assert (await driver.capabilities()).writes == ()
            await driver.inventory()
            assert await writes(driver) == ["ComposeByPatch"]
            served.allow[SLED_0] = "GET, PATCH"
            read = await driver.inventory()
            (patch,) = (await driver.capabilities()).writes
            assert "Allow header" in patch.evidence
            assert {host.closed for host in read.hosts} == {""}

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (405, {}),
            (406, {}),
            (501, {}),
            (403, message("ActionNotSupported", "not on this chassis")),
            (403, message("PropertyNotWritable", "not on this chassis")),
            (400, message("PropertyNotWritable", "not on this chassis")),
        ],
    )
    async def test_a_refusal_is_a_capability_that_is_missing_in_the_managers_words(
        self, status: int, body: Any
    ) -> None:
        served = manager()
        served.answers["PATCH", SLED_0] = lambda: web.json_response(body, status=status)
        async with reading(served) as (_, driver):
            await driver.inventory()
            with pytest.raises(Unsupported) as refusal:
                await driver.attach("a", "sled-0", gpus(0))
            assert "credentials" not in str(refusal.value)
            hosts = {host.id: host.closed for host in (await driver.inventory()).hosts}
            assert hosts["sled-1"] == ""
            assert hosts["sled-0"].startswith("the manager refuses ComposeByPatch")
            assert body == {} or "not on this chassis" in hosts["sled-0"]
            with pytest.raises(Unsupported, match="refuses ComposeByPatch"):
                await driver.attach("a", "sled-0", gpus(0))
            assert len(served.changes) == 1

    async def test_what_was_refused_in_one_way_is_done_in_the_other_that_is_offered(self) -> None:
        served = manager("actions")
        served.allow = {SLED_0: "GET, PATCH"}
        served.answers["POST", f"{SLED_0}/Actions/{ADD}"] = lambda: web.Response(status=501)
        async with reading(served) as (_, driver):
            await driver.inventory()
            with pytest.raises(Unsupported):
                await driver.attach("a", "sled-0", gpus(0))
            await driver.attach("a", "sled-0", gpus(0))
            assert await driver.attached("sled-0") == gpus(0)

    async def test_what_is_attached_is_released_although_attaching_is_refused(self) -> None:
        served = manager()
        served.set_blocks(SLED_0, [gpu(0)])
        served.answers["PATCH", SLED_0] = lambda: web.Response(status=405)
        async with reading(served) as (_, driver):
            await driver.inventory()
            with pytest.raises(Unsupported):
                await driver.attach("a", "sled-0", gpus(1))
            del served.answers["PATCH", SLED_0]
            await driver.detach("b", "sled-0", gpus(0))
            assert await driver.attached("sled-0") == frozenset()

"""`weft ui`: what the page says, to whom it is served, and that nothing of the cluster's becomes a part of it."""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from support.looked_at import (
    BOUND,
    CLAIM,
    EVERYTHING,
    FABRIC,
    GROUP,
    POOL,
    WAITS,
    Object,
    cluster,
    reading,
    said,
)
from weft.api.resources import LOGICAL_NODES, ResourceType
from weft.cli.look.board import Board, board_of
from weft.cli.look.commands import main
from weft.cli.look.page import page
from weft.cli.look.reading import AskError, Reading
from weft.cli.look.ui import application
from weft.cli.look.words import UNREADABLE
from weft.cluster import ClusterError

EVIL = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\"'&lt;"


class Page(HTMLParser):
    """What a browser would make of the page: its elements, their attributes, and the text of each table's rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.words.append("\n")

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def row(self, first: str) -> str:
        rows = (" ".join(row.split()) for row in " ".join(self.words).split("\n"))
        return next(row for row in rows if row.startswith(first))

    def count(self, tag: str) -> int:
        return sum(1 for name, _ in self.elements if name == tag)


def shown(seen: Reading, *, live: bool = False) -> Page:
    return Page(page(board_of(seen), "n0nce", live=live).replace("\n", " "))


def test_the_page_says_what_is_bound_where_and_what_waits_for_what() -> None:
    waits = {**WAITS, "status": {**WAITS["status"], "queuePlace": "3-4"}}
    seen = shown(reading(FABRIC, POOL, BOUND, CLAIM, waits))

    assert "1 of 2 logical nodes bound and ready" in seen.text
    assert seen.row("sled-1") == "sled-1 worker-1 team-a/trainer ✓ bound and ready 1 of GPUPool a100: gpu-1"
    assert "1 more hosts have no devices of Weft's." in seen.text
    row = seen.row("team-a/greedy")
    assert row.startswith("team-a/greedy 5 min 3-4 ! NotEnoughDevices main: 4 asked for, too few are free")
    assert "Wait for a release, ask for less" in row


def test_a_pool_is_shown_with_every_state_that_its_devices_are_in() -> None:
    pool = copy.deepcopy(POOL)
    pool["status"] |= {"kept": 2, "stranded": [{"reason": "NoHost", "devices": 1}]}
    seen = shown(reading(pool))

    # total, bound, reserved, quarantined, unavailable, kept, free, stranded
    assert seen.row("GPUPool a100") == "GPUPool a100 rack 8 4 0 1 0 2 3 1 NoHost ✓ nothing"
    bar = [attributes["width"] for tag, attributes in seen.elements if tag == "rect" and "x" in attributes]
    assert bar == ["4", "0", "1", "0", "2", "1"]


def test_a_pool_that_was_not_read_yet_has_no_numbers() -> None:
    assert "GPUPool a100 rack not read yet" in shown(reading({**POOL, "status": {}})).text


def test_a_groups_row_has_split_objectives_decision_and_what_is_to_be_done() -> None:
    row = shown(reading(GROUP)).row("team-a/llama")

    assert "decode 1, prefill 2 2 of 3 ! missed first token in 1000 ms; 99 % of requests" in row
    assert "decided 5 min ago: from decode 2, prefill 1 to decode 1, prefill 2" in row
    assert (
        "because decode 1, prefill 2 is better than decode 2, prefill 1 more prefill needs 1.6 replicas"
        in row
    )
    assert "instead of decode 2, prefill 1: stay; expected violations 0.20" in row
    assert "! ObjectivesMet=False Missed : too late" in row
    assert "Do: " in row


def test_what_may_not_be_listed_is_said_and_a_tenants_own_devices_are_shown_all_the_same() -> None:
    bound = copy.deepcopy(BOUND)
    bound["status"]["host"] = "sled-1"
    seen = shown(reading(bound, denied=("deviceattachments", "fabrics", "gpupools")))

    assert "Not shown, for want of the right to list them: deviceattachments, fabrics, gpupools." in seen.text
    assert "Fabric rack It is known here from logical nodes, or claims, alone." in seen.text
    assert seen.row("sled-1") == "sled-1 worker-1 team-a/trainer ✓ bound and ready 1 of GPUPool a100: gpu-1"


def test_of_what_may_not_be_listed_the_page_says_neither_a_count_nor_that_there_is_none() -> None:
    kinds = ("fabrics", "gpupools", "inferencegroups", "logicalnodes")
    seen = shown(reading(denied=kinds, narrowed="of namespace team-a alone"))

    assert "logical nodes bound and ready" not in seen.text
    assert "0 groups" not in seen.text
    assert "None to be seen" not in seen.text
    assert seen.text.count("Not known: you may not list them.") == 4
    assert "Shown of namespace team-a alone." in seen.text
    assert "1 group." in shown(reading(GROUP)).text


def test_of_what_is_not_known_the_page_does_not_say_that_it_is_well_or_free() -> None:
    unsaid = {**GROUP, "status": {"split": "decode 1"}}
    fabric = copy.deepcopy(FABRIC)
    fabric["spec"]["hosts"] = [{"host": "sled-1", "nodeName": "worker-1"}]

    fabric["spec"]["hosts"] = [{"host": f"sled-{n}", "nodeName": f"worker-{n}"} for n in (10, 9)]
    in_order = shown(reading(fabric)).text
    assert in_order.index("sled-9") < in_order.index("sled-10")
    fabric["spec"]["hosts"] = [{"host": "sled-1", "nodeName": "worker-1"}]

    assert "! no condition yet: does the operator run?" in shown(reading(unsaid)).row("team-a/llama")
    assert shown(reading(fabric)).row("sled-1") == "sled-1 worker-1 none none"
    seen = shown(reading(fabric, denied=("deviceattachments",)))
    assert "sled-1" not in seen.text
    assert "2 more hosts are not shown." in seen.text


def test_a_device_that_is_quarantined_is_marked_with_its_claim_and_a_claim_without_an_owner_is_shown() -> (
    None
):
    claim = {**CLAIM, "status": {"conditions": [said("Quarantined", "True", "AttachFailed")]}}

    row = shown(reading(FABRIC, claim)).row("sled-1")
    assert "! not among the logical nodes that were read" in row
    assert "gpu-1 (Quarantined)" in row


def test_no_text_of_the_cluster_becomes_a_part_of_the_page() -> None:
    quarantined = {**CLAIM, "status": {"conditions": [said("Quarantined", "True", "AttachFailed")]}}
    honest = reading(*EVERYTHING[:-1], quarantined)
    board = board_of(honest)
    evil = [copy.deepcopy(each) for objects in honest.objects.values() for each in objects]
    for each in evil:
        if each["kind"] != "Fabric":  # its claims name it, and a claim's words for it are checked
            each["metadata"]["name"] = EVIL
        for condition in each["status"].get("conditions", ()):
            condition["message"] = EVIL
        if each["kind"] == "DeviceAttachment":
            each["spec"] |= {"device": EVIL, "host": EVIL}
        if each["kind"] == "InferenceGroup":
            each["status"]["split"] = EVIL
            each["status"]["decision"]["reason"] = f"{EVIL}; {EVIL}"
            each["status"]["decision"]["alternatives"][0]["reason"] = EVIL

    before, after = Page(page(board, "n", live=True)), Page(page(board_of(reading(*evil)), "n", live=True))

    assert after.text.count("<script>alert(1)</script>") > 10
    assert [tag for tag, _ in after.elements] == [tag for tag, _ in before.elements]
    assert all(not name.startswith("on") for _, attributes in after.elements for name in attributes)


def test_an_object_that_this_version_cannot_read_is_named_with_what_of_it() -> None:
    newer = copy.deepcopy(WAITS)
    newer["spec"]["accelerators"][0]["count"] = "four"
    seen = shown(reading(FABRIC, newer))

    assert "0 of 0 logical nodes" in seen.text
    assert f"{UNREADABLE}: LogicalNode team-a/greedy (spec.accelerators.0.count: " in seen.text


def test_the_page_refers_to_nothing_outside_itself() -> None:
    text = page(board_of(reading(*EVERYTHING)), "n0nce", live=True)

    seen = Page(text).elements
    assert not {name for _, attributes in seen for name in attributes} & {"src", "style"}
    places = {str(attributes["id"]) for _, attributes in seen if "id" in attributes}
    assert {str(attributes["href"]) for _, attributes in seen if "href" in attributes} == {
        f"#{place}" for place in ("groups", "traffic", "waits", "pools", "fabrics") if place in places
    }
    assert "url(" not in text
    assert "default-src &#x27;none&#x27;" in text


def test_in_a_narrow_window_each_cell_says_which_column_it_is_of() -> None:
    text = page(board_of(cluster(hosts=3, groups=3)), "n", live=True)
    heads = re.findall(r'<table class="stacked (\w+)">.*?<thead>(.*?)</thead>', text)
    assert [kind for kind, _ in heads] == ["groups", "waits", "pools", "hosts"]
    for kind, head in heads:
        columns = [re.sub("<.*?>", "", cell) for cell in re.findall("<th .*?>(.*?)</th>", head)]
        shown_before = re.findall(rf'\.{kind} td:nth-child\((\d+)\).*?content: "(.*?): "', text)
        assert shown_before == [(str(n), column) for n, column in enumerate(columns, 1) if n > 1]


def test_every_table_has_a_caption_and_headings_and_every_element_an_id_of_its_own() -> None:
    seen = shown(cluster(hosts=3, groups=3))

    tables = seen.count("table")
    assert tables == seen.count("caption") == 4
    scopes = [attributes.get("scope") for tag, attributes in seen.elements if tag == "th"]
    assert set(scopes) == {"col", "row"}
    ids = [attributes["id"] for _, attributes in seen.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0


def test_a_page_that_was_written_once_has_no_script_and_does_not_load_itself_again() -> None:
    seen = shown(reading(*EVERYTHING))

    assert seen.count("script") == seen.count("noscript") == 0
    assert shown(reading(*EVERYTHING), live=True).count("script") == 1


def test_two_thousand_devices_in_two_hundred_groups_are_all_on_the_page_and_it_stays_small() -> None:
    text = page(board_of(cluster(hosts=252, groups=200)), "n", live=True)

    seen = Page(text)
    assert seen.text.count("gpu-") == 2000
    assert seen.count("details") == 200
    assert seen.count("tr") == 200 + 252 + 1 + 1 + 4
    assert len(text) < 1_000_000


@pytest.mark.parametrize(("file", "status"), [("page.html", 0), ("no/such/folder.html", 1)])
def test_the_page_is_written_once_with_what_a_tenants_rights_allow(
    file: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Tenants:
        """An API server that shows a tenant the logical nodes of one namespace."""

        def __init__(self, _: object) -> None: ...

        async def list(self, resource: ResourceType, namespace: str, _: str) -> tuple[list[Object], str]:
            if resource != LOGICAL_NODES or namespace != "team-a":
                raise ClusterError(403, "Forbidden", "")
            return [WAITS], "1"

        async def find(self, *_: object) -> tuple[Object, ...]:
            raise ClusterError(403, "Forbidden", "")

        async def close(self) -> None: ...

    async def configuration(*_: object) -> None: ...

    monkeypatch.setattr("weft.runtime.client.KubeClient", Tenants)
    monkeypatch.setattr("weft.runtime.client.load_configuration", configuration)
    monkeypatch.setattr("weft.runtime.client.current_namespace", lambda *_: "team-a")
    path = tmp_path / file

    assert main("ui", ["--once", str(path)]) == status
    if status:
        assert "weft ui: the page was not written" in capsys.readouterr().err
        return
    seen = Page(path.read_text())
    assert seen.row("team-a/greedy")
    assert "Not shown, for want of the right to list them: deviceattachments," in seen.text


@asynccontextmanager
async def served(board: Board | AskError) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    async def read() -> Board:
        if isinstance(board, AskError):
            raise board
        return board

    runner = web.AppRunner(application(read, "t0ken"))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield session, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_the_page_is_given_to_whoever_has_its_address_and_to_nobody_else() -> None:
    async with served(board_of(reading(*EVERYTHING))) as (session, url):

        async def status(path: str, method: str = "GET", host: str | None = None) -> int:
            headers = {"Host": host} if host is not None else {}
            async with session.request(method, url + path, headers=headers, allow_redirects=False) as answer:
                return answer.status

        assert await status("/t0ken/") == 200
        assert await status("/t0ken/", host="localhost:1234") == 200
        assert [
            await status(path) for path in ("/", "/t0ke/", "/t0kenn/", "/t%C3%B6ken/", "/favicon.ico")
        ] == [404] * 5
        assert [
            await status("/t0ken/", host=host)
            for host in ("evil.example", "127.0.0.1.evil.example:80", "localhost@evil.example", "")
        ] == [403] * 4
        assert [
            await status("/t0ken/", method) for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS")
        ] == [405] * 5


async def test_each_answer_has_a_nonce_of_its_own_and_is_kept_and_framed_by_nobody() -> None:
    async with served(board_of(reading(*EVERYTHING))) as (session, url):
        answers = [await session.get(f"{url}/t0ken/") for _ in range(2)]
        policies = [answer.headers["Content-Security-Policy"] for answer in answers]

        assert policies[0] != policies[1]
        assert "frame-ancestors 'none'" in policies[0]
        assert "unsafe" not in policies[0]
        nonces = {
            attributes["nonce"]
            for tag, attributes in Page(await answers[0].text()).elements
            if tag in ("script", "style")
        }
        assert [f"'nonce-{nonce}'" in policies[0] for nonce in nonces] == [True]
        assert answers[0].headers["Cache-Control"] == "no-store"
        assert answers[0].headers["Referrer-Policy"] == "no-referrer"


async def test_an_api_server_that_does_not_answer_is_said_and_not_shown_as_an_empty_cluster() -> None:
    async with (
        served(AskError("the API server does not answer: <b>x</b>")) as (session, url),
        session.get(f"{url}/t0ken/") as answer,
    ):
        assert (answer.status, answer.content_type) == (503, "text/plain")
        assert await answer.text() == "the API server does not answer: <b>x</b>"

"""`weft fabric probe`: what it says of a manager, its status, and the recording that it leaves."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from support.foreign import Foreign
from support.replay import (
    BLOCKS,
    ROOT,
    SYSTEMS,
    Replay,
    Tree,
    block,
    case,
    link,
    rack,
    reading,
    recorded,
    serve,
    system,
)
from weft.cli.main import main
from weft.fabric.driver import not_used


def some_rack() -> Tree:
    at = f"{BLOCKS}/gpu-3"
    tree = rack(
        *(block(f"{BLOCKS}/gpu-{n}") for n in range(4)),
        *(block(f"{BLOCKS}/h{n}", ResourceBlockType=["Compute"]) for n in range(2)),
        system(f"{SYSTEMS}/sled-0", Manufacturer="Acme", Model="S1", SerialNumber="SN-1", UUID="7f-1"),
        system(f"{SYSTEMS}/sled-1", at, HostName="web-1", Status={"Health": "Critical"}),
    )
    tree[at]["Links"]["ComputerSystems"] = [link(f"{SYSTEMS}/sled-1")]
    return tree


async def probe(manager: Replay, *options: str) -> int:
    """The exit status of the command, run as a user would; the manager answers meanwhile."""
    async with serve(manager):
        arguments = ["fabric", "probe", manager.url, "--requests-per-second", "5000", *options]
        return await asyncio.to_thread(main, arguments)


async def test_a_rack_is_told_by_kinds_hosts_and_what_is_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert await probe(Replay(some_rack())) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "hosts: 2",
        "  sled-0 (Acme S1)",
        "  sled-1, not healthy",
        "devices: 4",
        "  4 Accelerator: GPU NVIDIA H200, 141 GiB",
        "attached now: 1",
        "  gpu-3 at sled-1",
        "reach: no zones say which hosts reach a device: every host reaches every device",
        "not used: 2 blocks not used: 2 are of hosts",
        "not read: 0",
    ):
        assert line in lines
    assert lines[-1].startswith("verdict: useful")


async def test_it_writes_nothing_and_counts_its_requests(capsys: pytest.CaptureFixture[str]) -> None:
    manager = Replay(some_rack())
    assert await probe(manager) == 0
    assert {method for method, _ in manager.requests} == {"GET"}
    assert f"requests: {len(manager.requests)} in " in capsys.readouterr().out


async def test_a_manager_without_devices_is_not_useful_and_it_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = rack()
    del tree[ROOT]["CompositionService"]
    assert await probe(Replay(tree)) == 1
    out = capsys.readouterr().out
    assert "not used: no devices: the manager has no CompositionService" in out
    assert "verdict: not useful yet" in out


async def test_it_says_in_which_way_the_manager_takes_changes_and_what_shows_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    manager = Foreign(rack(block(f"{BLOCKS}/gpu-0")))
    manager.allow[SYSTEMS] = "GET, PATCH"
    assert await probe(manager) == 0
    out = capsys.readouterr().out
    assert "writes: 1\n  ComposeByPatch: its systems take PATCH (Allow header)" in out


async def test_a_manager_that_takes_no_changes_is_not_useful_and_it_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    manager = Foreign(rack(block(f"{BLOCKS}/gpu-0")))
    manager.allow[SYSTEMS] = "GET, HEAD"
    assert await probe(manager) == 1
    out = capsys.readouterr().out
    why = "the manager offers no way to attach devices that Weft knows"
    assert f"  None: {why}: " in out
    assert f"  sled-0: {why}" in out
    assert "its systems take GET, HEAD only (Allow header)" in out
    assert "verdict: not useful yet" in out


async def test_a_manager_without_a_healthy_host_is_not_useful() -> None:
    tree = rack(block(f"{BLOCKS}/gpu-0"), system(f"{SYSTEMS}/a", Status={"State": "Absent"}))
    assert await probe(Replay(tree)) == 1


async def test_a_rack_of_which_another_client_has_reserved_all_is_not_useful(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = {"Reserved": True, "CompositionState": "Unused"}
    assert await probe(Replay(rack(block(f"{BLOCKS}/gpu-0", CompositionStatus=status)))) == 1
    assert "1 is reserved by another client of the manager" in capsys.readouterr().out


async def test_what_could_not_be_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert await probe(Replay(case("six-broken-blocks"))) == 0
    out = capsys.readouterr().out
    assert "not read: 6\n  device gpu-11\n  device gpu-13\n" in out


async def test_a_manager_that_cannot_be_read_says_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    manager = Replay(some_rack())
    manager.users = {"weft": "other"}
    (tmp_path / "password").write_text("secret\n")
    assert await probe(manager, "--username", "weft", "--password-file", str(tmp_path / "password")) == 2
    assert "not readable: the manager refused the login as 'weft'" in capsys.readouterr().out


async def test_a_login_is_used_and_ended(tmp_path: Path) -> None:
    manager = Replay(some_rack())
    manager.users = {"weft": "secret"}
    (tmp_path / "password").write_text("secret\n")
    assert await probe(manager, "--username", "weft", "--password-file", str(tmp_path / "password")) == 0
    assert ("POST", "/redfish/v1/SessionService/Sessions") in manager.requests
    assert manager.sessions == {}


def test_credentials_are_not_sent_in_clear_to_another_machine(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("secret")
    options = ["--username", "weft", "--password-file", str(tmp_path / "password")]
    assert main(["fabric", "probe", "http://fm.rack-a:8080", *options]) == 2
    assert "https" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["six-broken-blocks", "types-empty-nec", "ids-not-dns-labels", "some rack"])
async def test_a_recording_gives_the_same_inventory_when_it_is_replayed(name: str, tmp_path: Path) -> None:
    tree = some_rack() if name == "some rack" else case(name)
    file = tmp_path / "rack.json"
    assert await probe(Replay(tree), "--record", str(file)) == 0
    async with reading(tree) as (_, driver):
        live = await driver.inventory()
    async with reading(recorded(file)) as (_, driver):
        again = await driver.inventory()
    nameless = tuple(dataclasses.replace(host, uuid="") for host in live.hosts)
    assert tuple(dataclasses.replace(host, uuid="") for host in again.hosts) == nameless
    assert (again.devices, again.attachments) == (live.devices, live.attachments)
    assert (again.unread, not_used(again)) == (live.unread, not_used(live))


async def test_a_recording_holds_pages_expansions_redirects_and_failures(tmp_path: Path) -> None:
    tree = some_rack()
    tree[ROOT]["ProtocolFeaturesSupported"] = {"ExpandQuery": {"NoLinks": True}}
    manager = Replay(tree)
    manager.expand, manager.page_size = True, 3
    manager.moved = {f"{SYSTEMS}/sled-1": f"{SYSTEMS}/moved"}
    file = tmp_path / "rack.json"
    await probe(manager, "--record", str(file))
    async with reading(recorded(file)) as (_, driver):
        read = await driver.inventory()
    assert len(read.devices) == 4
    assert f"{BLOCKS}?$expand=." in recorded(file)


async def test_a_recording_does_not_tell_whose_machines_they_are(tmp_path: Path) -> None:
    tree: dict[str, Any] = some_rack()
    tree[f"{SYSTEMS}/sled-0"] |= {
        "AssetTag": "A-17",
        "NetworkProtocol": {"HostName": "web-2", "IPv4Addresses": [{"Address": "10.1.2.3"}]},
        "Oem": {"Acme": {"ApiToken": "t-123", "Manager": "https://fm.acme.example:8443/redfish/v1/Systems"}},
    }
    manager = Replay(tree)
    manager.users = {"weft": "correct horse"}
    (tmp_path / "password").write_text("correct horse")
    file = tmp_path / "rack.json"
    options = ("--username", "weft", "--password-file", str(tmp_path / "password"), "--record", str(file))
    assert await probe(manager, *options) == 0
    text = file.read_text()
    for secret in (
        "SN-1",
        "7f-1",
        "A-17",
        "web-1",
        "web-2",
        "10.1.2.3",
        "t-123",
        "acme.example",
        "horse",
        "token-",
    ):
        assert secret not in text
    assert json.loads(text)[f"{SYSTEMS}/sled-0"]["SerialNumber"] == "redacted"

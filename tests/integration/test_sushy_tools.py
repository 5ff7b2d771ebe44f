"""OpenStack's emulator sushy-tools, unmodified: a manager that others wrote, which composes nothing.

Weft shows its systems as hosts, and says in one sentence why there are no devices.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import pytest
import requests

from weft.cli.main import main
from weft.fabric.driver import Connection, not_used
from weft.fabric.errors import AuthFailed, Unsupported
from weft.fabric.redfish import RedfishDriver

PROGRAM = Path(sys.executable).parent / "sushy-emulator"
START_LIMIT_SECONDS = 30.0


@contextmanager
def emulator(folder: Path, **config: str) -> Iterator[str]:
    """Its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = folder / "emulator.conf"
    file.write_text("".join(f"{key} = {value!r}\n" for key, value in config.items()))
    command = [PROGRAM, "--fake", "--interface", "127.0.0.1", "--port", str(port), "--config", file]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], cwd=folder, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: requests.get(f"{url}/redfish/v1/", timeout=5).status_code < 500, process, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def wait(answers: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_LIMIT_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if answers():
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError(f"sushy-emulator does not answer: {log.read_text()[-2000:]}")


def systems_of(url: str) -> set[str]:
    """Their paths, as anybody reads them."""
    members = requests.get(f"{url}/redfish/v1/Systems", timeout=5).json()["Members"]
    return {member["@odata.id"] for member in members}


async def test_its_systems_are_hosts_and_one_sentence_says_why_there_are_no_devices(tmp_path: Path) -> None:
    with emulator(tmp_path) as url:
        driver = RedfishDriver(Connection(url))
        read = await driver.inventory()
        assert {f"/redfish/v1/Systems/{h.id}" for h in read.hosts} == systems_of(url)
        assert len(read.hosts) > 0
        assert (read.devices, read.complete, read.problems) == ((), True, ())
        assert not_used(read).startswith("no devices: the manager has no CompositionService")
        with pytest.raises(Unsupported, match="no CompositionService"):
            await driver.attach("a", read.hosts[0].id, frozenset({"gpu-0"}))
        await driver.close()


def test_the_probe_says_that_it_is_of_no_use_to_weft(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with emulator(tmp_path) as url:
        assert main(["fabric", "probe", url, "--record", str(tmp_path / "rack.json")]) == 1
    out = capsys.readouterr().out
    assert "no devices: the manager has no CompositionService" in out
    assert "verdict: not useful yet" in out


async def test_its_http_basic_login_is_used_and_a_wrong_password_told(tmp_path: Path) -> None:
    hashed = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode()
    (tmp_path / "users").write_text(f"weft:{hashed}\n")
    with emulator(tmp_path, SUSHY_EMULATOR_AUTH_FILE=str(tmp_path / "users")) as url:
        driver = RedfishDriver(Connection(url, username="weft", password="correct horse"))
        assert len((await driver.inventory()).hosts) > 0
        await driver.close()
        driver = RedfishDriver(Connection(url, username="weft", password="wrong"))
        with pytest.raises(AuthFailed, match="credentials Secret"):
            await driver.inventory()
        await driver.close()

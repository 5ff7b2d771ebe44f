"""Drivers of others: found by name, and held to the contract whatever they do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from weft.fabric import installed
from weft.fabric.driver import Connection
from weft.fabric.errors import Conflict, FabricError, OutcomeUnknown, Transient
from weft.fabric.installed import Guarded, open_driver

pytestmark = pytest.mark.virtual_time

CONNECTION = Connection("https://fm", request_timeout_seconds=1.0)


def install(folder: Path, group: str, name: str, value: str) -> None:
    """What pip leaves of a package with one entry point."""
    about = folder / f"{name}-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that are installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("group", ["weft.fabric.drivers", "weft.drivers"])
def test_a_driver_of_another_package_is_found_by_its_name(site: Path, group: str) -> None:
    (site / "vendor.py").write_text(
        "class Driver:\n    def __init__(self, link):\n        self.link = link\n"
    )
    install(site, group, f"shelf-{group.replace('.', '-')}", "vendor:Driver")
    found = open_driver(f"shelf-{group.replace('.', '-')}", CONNECTION)
    assert isinstance(found, Guarded)
    assert found.driver.link is CONNECTION  # type: ignore[attr-defined]


def test_a_driver_that_is_not_there_is_told_with_those_that_are(site: Path) -> None:
    install(site, "weft.fabric.drivers", "shelf", "vendor:Driver")
    with pytest.raises(LookupError, match=r"no driver 'rack' is installed; installed: redfish, shelf"):
        open_driver("rack", CONNECTION)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module:Driver", "No module named 'no_such_module'"),
        ("os:sep", "'str' object is not callable"),
    ],
)
def test_a_driver_that_cannot_be_loaded_is_told_with_the_reason(site: Path, value: str, why: str) -> None:
    install(site, "weft.fabric.drivers", "broken", value)
    with pytest.raises(LookupError, match=f"the driver 'broken' .* cannot be loaded: .*{why}"):
        open_driver("broken", CONNECTION)


class Careless:
    """A driver whose calls do what a test says."""

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    async def _do(self) -> frozenset[str]:
        if self._error is None:
            await asyncio.sleep(3600)
        else:
            raise self._error
        return frozenset()

    async def attached(self, host: str) -> frozenset[str]:
        return await self._do()

    async def attach(self, operation: str, host: str, devices: frozenset[str]) -> frozenset[str]:
        return await self._do()


async def raised_by(driver: Guarded) -> tuple[FabricError, FabricError]:
    """What a read and a change raise."""
    errors = []
    for call in (driver.attached("h"), driver.attach("op", "h", frozenset({"d"}))):
        with pytest.raises(FabricError) as caught:
            await call
        errors.append(caught.value)
    return errors[0], errors[1]


async def test_whatever_a_driver_raises_a_read_is_tried_again_and_a_change_is_not_known() -> None:
    read, change = await raised_by(Guarded("x", Careless(KeyError("Members")), 1.0))  # type: ignore[arg-type]
    assert type(read) is Transient
    assert type(change) is OutcomeUnknown
    assert str(change) == "the driver 'x' failed: KeyError: 'Members'"


async def test_the_errors_of_the_contract_come_through_as_they_are() -> None:
    conflict = Conflict("elsewhere")
    assert await raised_by(Guarded("x", Careless(conflict), 1.0)) == (conflict, conflict)  # type: ignore[arg-type]


async def test_a_call_that_does_not_end_is_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "READ_SECONDS", 0.05)
    monkeypatch.setattr(installed, "GRACE_SECONDS", 0.01)
    read, change = await raised_by(Guarded("x", Careless(None), 0.01))  # type: ignore[arg-type]
    assert type(read) is Transient
    assert type(change) is OutcomeUnknown
    assert "did not end within" in str(change)


async def test_a_caller_that_gives_up_is_not_told_of_a_failure() -> None:
    task = asyncio.ensure_future(Guarded("x", Careless(None), 1.0).attached("h"))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_each_call_is_told_with_how_it_ended() -> None:
    told: list[tuple[str, str]] = []
    driver = Guarded("x", Careless(Conflict("elsewhere")), 1.0, lambda *call: told.append(call[:2]))  # type: ignore[arg-type]
    await raised_by(driver)
    assert told == [("attached", "Conflict"), ("attach", "Conflict")]

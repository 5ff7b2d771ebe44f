"""What a manager says reaches tenants as a sentence of ours, and administrators without what lets one log in."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from support.rack import Rack, condition
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, LOGICAL_NODES
from weft.binding.words import for_administrators, for_tenants
from weft.cluster import Object
from weft.fabric import errors
from weft.fabric.driver import Operation, OperationPhase

CANARY = "https://svc-account:hunter2@10.9.8.7/redfish/v1 said <raw body>"
PARTS = ("svc-account", "hunter2", "10.9.8.7", "raw body")

ERRORS: list[Callable[[], errors.FabricError]] = [
    lambda: errors.Transient(CANARY),
    lambda: errors.RateLimited(CANARY, 1.0),
    lambda: errors.Busy(CANARY),
    lambda: errors.Conflict(CANARY),
    lambda: errors.CapacityExhausted(CANARY),
    lambda: errors.NotFound(CANARY),
    lambda: errors.InvalidRequest(CANARY),
    lambda: errors.AuthFailed(CANARY),
    lambda: errors.DeviceFault(CANARY, "gpu-0"),
    lambda: errors.PartialFailure(CANARY, {"gpu-0": CANARY, f"foreign {CANARY}": CANARY}),
    lambda: errors.OutcomeUnknown(CANARY),
    lambda: errors.Unsupported(CANARY),
]


class Told:
    """Everything that tenants can read: their objects, and the events in their namespaces."""

    def __init__(self, rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rack = rack
        self.texts: list[str] = []
        record, write = rack.cluster.event, rack.cluster.write_status

        def event(about: Object, kind: Any, reason: str, message: str, devices: Iterable[str] = ()) -> None:
            if about["metadata"].get("namespace"):
                self.texts.append(f"{reason} {message}")
            record(about, kind, reason, message, devices)

        async def write_status(resource: Any, obj: Object, status: Object) -> Object:
            if resource.namespaced:
                self.texts.append(str(status))
            return await write(resource, obj, status)

        monkeypatch.setattr(rack.cluster, "event", event)
        monkeypatch.setattr(rack.cluster, "write_status", write_status)

    def check(self) -> None:
        """None of the manager's words is among it."""
        assert self.texts
        found = [(part, text) for text in self.texts for part in PARTS if part in text]
        assert found == []


async def through_a_life(rack: Rack) -> None:
    """Try to bind, give up and release, with time in between."""
    await rack.ask("n", gpus=2)
    for _ in range(4):
        await rack.poll()
        await rack.work("n")
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    for _ in range(4):
        await rack.work("n")
        await rack.poll()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error()).__name__)
@pytest.mark.parametrize("call", ["before_attach", "before_attached"])
async def test_no_word_of_a_managers_error_reaches_a_tenant(
    monkeypatch: pytest.MonkeyPatch, error: Callable[[], errors.FabricError], call: str
) -> None:
    rack = Rack(monkeypatch, settle=1)
    await rack.build()
    told = Told(rack, monkeypatch)

    async def fail() -> None:
        raise error()

    setattr(rack.driver, call, fail)
    await through_a_life(rack)
    told.check()


async def test_no_word_of_a_managers_task_reaches_a_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    rack = Rack(monkeypatch, settle=1)
    await rack.build()
    told = Told(rack, monkeypatch)

    async def attach(operation: str, host: str, devices: frozenset[str]) -> Operation:
        return Operation("", OperationPhase.FAILED, CANARY, dict.fromkeys(devices, CANARY))

    rack.driver.attach = attach  # type: ignore[method-assign]
    await through_a_life(rack)
    told.check()


async def test_an_administrator_reads_at_the_fabric_and_in_the_log_what_the_manager_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rack = Rack(monkeypatch)
    await rack.build()
    words = ["no such block; token=abc, id 1", "no such block; token=abc, id 2", "", ""]

    async def fail() -> None:
        if words and (text := words.pop(0)):
            raise errors.Transient(text)

    rack.driver.before_attach = fail
    with caplog.at_level(logging.WARNING):
        await rack.ask("n")
        await rack.poll()
        fabric = rack.cluster.get(FABRICS, "rack")
        assert fabric is not None
        assert condition(fabric, "CallsSucceed") == ("False", "CallFailed")
        assert "attach at sled-0: Transient: no such block; token=(hidden), id 1" in str(fabric["status"])
        for _ in range(4):
            rack.clock.forward(2)
            await rack.work("n")
    said = [record for record in caplog.records if "no such block" in record.getMessage()]
    assert len(said) == 1
    assert "abc" not in said[0].getMessage()
    await rack.poll()
    assert condition(rack.cluster.get(FABRICS, "rack") or {}, "CallsSucceed")[0] == "True"


async def test_a_quarantined_device_says_why_to_administrators_without_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rack = Rack(monkeypatch, settle=1)
    await rack.build()
    session = rack.fabrics.session("rack")
    assert session is not None
    session.secrets = ("open-sesame",)

    async def fail() -> None:
        raise errors.DeviceFault("broken, open-sesame", "gpu-0")

    rack.driver.before_attach = fail
    await rack.ask("n")
    claims = [claim for claim in rack.cluster.list(DEVICE_ATTACHMENTS) if condition(claim, "Quarantined")[0]]
    assert ["broken, (hidden)" in str(claim["status"]) for claim in claims] == [True]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("https://root:pw@bmc/x refused", "https://(hidden)@bmc/x refused"),
        ('{"UserName": "root", "Password": "a b"}', '{"UserName": "root", "Password": (hidden)}'),
        ("X-Auth-Token: 0123abcd", "X-Auth-Token: (hidden)"),
        ("sent Authorization: Basic cm9vdDpwdw==", "sent Authorization: (hidden)"),
        ("with Bearer eyJhbGciOi.x.y", "with Bearer (hidden)"),
        ("block gpu-0 is in use", "block gpu-0 is in use"),
    ],
)
def test_what_lets_one_log_in_is_hidden_from_administrators_too(said: str, kept: str) -> None:
    assert for_administrators(said) == kept


def test_a_password_is_hidden_wherever_it_stands_and_long_words_are_cut() -> None:
    assert for_administrators("cannot log in with s3cret!", ("s3cret!", "")) == "cannot log in with (hidden)"
    assert len(for_administrators("x" * 10_000)) < 600


@pytest.mark.parametrize("piece", ["a", "a-", "token-", "password='", "https://"])
def test_words_of_a_driver_of_others_hold_nobody_up_however_long_they_are(piece: str) -> None:
    def seconds(characters: int) -> float:
        began = time.thread_time()
        for_administrators(piece * (characters // len(piece)))
        return time.thread_time() - began

    seconds(1000)
    # Ten times as many take a hundred times as long where each place looks at all that follow.
    assert min(seconds(200_000) for _ in range(3)) < 40 * max(min(seconds(20_000) for _ in range(3)), 1e-4)


def test_each_error_has_a_sentence_of_its_own() -> None:
    sentences = [for_tenants(error(), "rack") for error in ERRORS]
    assert len(set(sentences)) == len(sentences)
    assert all("rack" in sentence for sentence in sentences)

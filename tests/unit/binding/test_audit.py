"""Each call that changes what is attached leaves one line and one count."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from support.rack import DONE, Rack
from weft.api.resources import LOGICAL_NODES
from weft.binding.audit import Act, Audit, Cause, reference
from weft.fabric.driver import Operation, OperationPhase
from weft.fabric.errors import (
    Busy,
    CapacityExhausted,
    DeviceFault,
    OutcomeUnknown,
    PartialFailure,
    Transient,
)

ABOUT = reference(LOGICAL_NODES, {"name": "x", "namespace": "a", "uid": "1"})


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(one) for one in caplog.records if one.name == "weft.audit"]


async def test_a_bind_and_its_release_are_two_lines_with_who_what_why_before_and_after(
    rack: Rack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "weft.audit")
    await rack.build()
    await rack.ask("trainer")
    devices = sorted(claim["spec"]["device"] for claim in rack.claims())
    uid = rack.node("trainer")["metadata"]["uid"]
    await rack.cluster.delete(LOGICAL_NODES, "trainer", "a")
    await rack.work("trainer")
    await rack.poll()
    attach, detach = lines(caplog)
    for line in (attach, detach):
        assert (line["who"], line["uid"], line["fabric"]) == ("LogicalNode a/trainer", uid, "rack")
        assert (line["devices"], line["outcome"]) == (devices, "done")
    assert (attach["act"], attach["why"], attach["before"], attach["after"]) == (
        "attach",
        "Claimed",
        [],
        devices,
    )
    assert (detach["act"], detach["why"], detach["before"], detach["after"]) == (
        "detach",
        "Deleted",
        devices,
        [],
    )
    assert attach["node"].startswith("node-sled-")


ACCEPTED = Operation("/tasks/1", OperationPhase.RUNNING)
FAILED = Operation("/tasks/1", OperationPhase.FAILED, "no power")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (DONE, "done"),
        (replace(DONE, failed={"gpu-1": "no power"}), "failed"),
        (FAILED, "failed"),
        (DeviceFault("broken", "gpu-1"), "failed"),
        (PartialFailure("broken", {"gpu-1": "broken"}), "failed"),
        (ACCEPTED, "accepted"),
        (replace(ACCEPTED, phase=OperationPhase.UNKNOWN), "unanswered"),
        (OutcomeUnknown("no answer"), "unanswered"),
        (KeyboardInterrupt(), "unanswered"),
        (CapacityExhausted("full"), "refused"),
    ],
)
def test_a_call_is_counted_once_by_how_it_was_answered(
    caplog: pytest.LogCaptureFixture, answer: Operation | BaseException, outcome: str
) -> None:
    caplog.set_level(logging.INFO, "weft.audit")
    counted: list[tuple[str, str, str]] = []
    audit = Audit(count=lambda *labels: counted.append(labels))
    act = an_act("gpu-1")
    audit.began(act)
    audit.ended(act, answer)
    for _ in range(2):
        audit.read("rack", "sled-1", frozenset({"gpu-1"}))
    assert counted == [("rack", "attach", outcome)]
    (line,) = lines(caplog)
    assert line["outcome"] == outcome
    assert line["after"] == (None if outcome == "refused" else ["gpu-1"])


def an_act(device: str) -> Act:
    return Act("rack", "attach", "sled-1", frozenset({device}), Cause(ABOUT), frozenset())


def test_a_host_that_is_busy_with_something_else_is_no_act(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "weft.audit")
    counted: list[tuple[str, str, str]] = []
    audit = Audit(count=lambda *labels: counted.append(labels))
    for _ in range(3):
        act = an_act("gpu-1")
        audit.began(act)
        audit.ended(act, Busy("works on another task"))
        audit.read("rack", "sled-1", frozenset())
    assert (counted, lines(caplog)) == ([], [])


def test_a_call_whose_host_was_never_read_is_told_at_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "weft.audit")
    audit = Audit()
    for device in ("gpu-1", "gpu-2"):
        act = an_act(device)
        audit.began(act)
        audit.ended(act, OutcomeUnknown("no answer"))
    (line,) = lines(caplog)
    assert (line["devices"], line["after"]) == (["gpu-1"], None)


async def test_a_call_whose_host_was_not_read_before_the_operator_stops_is_told_then(
    rack: Rack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "weft.audit")

    async def fail() -> None:
        raise Transient("not now")

    await rack.build()
    rack.driver.before_attached = fail
    await rack.ask("trainer")
    assert lines(caplog) == []
    await rack.fabrics.close()
    (line,) = lines(caplog)
    assert (line["act"], line["outcome"], line["after"]) == ("attach", "done", None)


@pytest.mark.parametrize(
    ("act", "after", "told"),
    [
        ("attach", {"gpu-1", "gpu-2"}, []),
        ("attach", {"gpu-1"}, [("AttachFailed", ["rack.gpu-2"])]),
        ("detach", set(), [("Detached", ["rack.gpu-1", "rack.gpu-2"])]),
        ("detach", {"gpu-2"}, [("Detached", ["rack.gpu-1"]), ("DetachFailed", ["rack.gpu-2"])]),
    ],
)
def test_what_came_of_a_call_is_told_of_the_devices_that_the_host_then_has(
    act: str, after: set[str], told: list[Any]
) -> None:
    seen: list[Any] = []
    audit = Audit(lambda about, kind, reason, text, devices=(): seen.append((reason, sorted(devices))))
    call = Act("rack", act, "sled-1", frozenset({"gpu-1", "gpu-2"}), Cause(ABOUT, "Claimed"), frozenset())
    audit.began(call)
    audit.ended(call, DONE)
    audit.read("rack", "sled-1", frozenset(after))
    assert seen == told

"""Each call that changes what is attached leaves one line and one count."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from support.rack import Rack
from weft.api.resources import LOGICAL_NODES
from weft.binding.audit import Act, Audit, Cause
from weft.fabric.errors import Busy, CapacityExhausted, OutcomeUnknown


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


@pytest.mark.parametrize(
    ("error", "failed", "outcome"),
    [
        (None, (), "done"),
        (None, ("gpu-1",), "failed"),
        (Busy("works on it"), (), "accepted"),
        (OutcomeUnknown("no answer"), (), "unanswered"),
        (CapacityExhausted("full"), (), "refused"),
        (KeyboardInterrupt(), (), "unanswered"),
    ],
)
def test_a_call_is_counted_once_by_how_it_was_answered(
    caplog: pytest.LogCaptureFixture, error: BaseException | None, failed: tuple[str, ...], outcome: str
) -> None:
    caplog.set_level(logging.INFO, "weft.audit")
    counted: list[tuple[str, str, str]] = []
    audit = Audit(lambda *labels: counted.append(labels))
    act = Act("rack", "attach", "sled-1", frozenset({"gpu-1"}), Cause("LogicalNode a/x"), None)
    audit.began(act)
    audit.ended(act, error, frozenset(failed))
    for _ in range(2):
        audit.read("rack", "sled-1", frozenset({"gpu-1"}))
    assert counted == [("rack", "attach", outcome)]
    (line,) = lines(caplog)
    assert line["outcome"] == outcome
    assert line["after"] == (None if outcome == "refused" else ["gpu-1"])


def test_a_call_whose_host_was_never_read_is_told_at_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "weft.audit")
    audit = Audit()
    for device in ("gpu-1", "gpu-2"):
        act = Act("rack", "attach", "sled-1", frozenset({device}), Cause(), frozenset())
        audit.began(act)
        audit.ended(act, OutcomeUnknown("no answer"))
    (line,) = lines(caplog)
    assert (line["devices"], line["after"]) == (["gpu-1"], None)

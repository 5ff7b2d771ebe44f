"""Which fabrics give nothing now, as `closed` says it; what comes of it is in test_suspended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from weft.binding.closed import closed

NIGHT = [{"from": "22:00", "to": "06:00"}]
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def reasons(spec: dict[str, Any], wall: datetime | None = NOON) -> dict[str, str]:
    found = closed([{"metadata": {"name": "rack"}, "spec": spec}], wall)
    return {name: each.reason for name, each in found.items()}


def test_a_fabric_without_windows_is_open_at_any_time() -> None:
    assert reasons({}) == reasons({"windows": None}) == reasons({"windows": []}) == {}


def test_a_fabric_is_closed_outside_of_its_windows_and_while_it_is_suspended_whatever_its_windows() -> None:
    assert reasons({"windows": NIGHT}) == {"rack": "OutsideWindow"}
    assert reasons({"windows": NIGHT}, NOON.replace(hour=23)) == {}
    assert reasons({"windows": NIGHT, "suspend": True}, NOON.replace(hour=23)) == {"rack": "Suspended"}


def test_for_what_waits_for_no_window_only_a_suspended_fabric_is_closed() -> None:
    assert reasons({"windows": NIGHT}, None) == {}
    assert reasons({"suspend": True}, None) == {"rack": "Suspended"}


def test_windows_of_which_one_cannot_be_read_are_not_open() -> None:
    assert reasons({"windows": [{"from": "00:00", "to": "00:00"}, {"from": "soon"}]}) == {
        "rack": "OutsideWindow"
    }

from __future__ import annotations

from dataclasses import replace

from weft.binding.inventory import LivePicture, Picture, accept
from weft.fabric.driver import Device, DeviceKind, Inventory, Unread


def reading(count: int, *, complete: bool = True, attached: tuple[tuple[str, str], ...] = ()) -> Inventory:
    devices = tuple(Device(f"gpu-{n}", DeviceKind.ACCELERATOR, {}, 1, True) for n in range(count))
    return Inventory(devices, (), attached, complete)


def test_a_complete_reading_replaces_the_picture() -> None:
    picture = accept(reading(10), 10, reading(9))
    assert picture.problem == ""
    assert len(picture.inventory.devices) == 9


def test_what_a_reading_does_not_change_is_not_kept_twice() -> None:
    known = reading(10)
    assert accept(known, 10, reading(10)).inventory.devices is known.devices
    broken = replace(known.devices[3], healthy=False)
    changed = replace(reading(10), devices=(*reading(10).devices[:3], broken, *reading(10).devices[4:]))
    devices = accept(known, 10, changed).inventory.devices
    assert devices == changed.devices
    assert all(new is old for new, old in zip(devices, known.devices, strict=True) if new != broken)


def test_an_incomplete_reading_removes_nothing() -> None:
    known = reading(10, attached=(("gpu-9", "h"),))
    picture = accept(known, 10, reading(3, complete=False))
    assert picture.problem == "InventoryIncomplete"
    assert len(picture.inventory.devices) == 10
    assert picture.inventory.attachments == (("gpu-9", "h"),)


def test_more_than_a_fifth_gone_at_once_is_not_believed_and_says_how_to_confirm_it() -> None:
    picture = accept(reading(10), 10, reading(7))
    assert picture.problem == "InventoryShrank"
    assert "weft.dev/accept-inventory=7" in picture.message
    assert len(picture.inventory.devices) == 10


def test_a_manager_that_restarts_empty_is_not_believed_also_after_the_operator_restarted() -> None:
    assert accept(None, 10, reading(0)).problem == "InventoryShrank"


def test_a_loss_that_an_administrator_confirmed_is_believed() -> None:
    picture = accept(reading(10), 10, reading(5), accepted_count=5)
    assert picture.problem == ""
    assert len(picture.inventory.devices) == 5


def test_a_host_reading_replaces_what_was_known_of_that_host_alone() -> None:
    live = LivePicture(Picture(reading(3, attached=(("gpu-0", "a"), ("gpu-1", "b")))))
    live.read("a", frozenset({"gpu-2"}))
    assert live.whole().inventory.attachments == (("gpu-1", "b"), ("gpu-2", "a"))


def test_what_is_shown_of_one_host_is_what_the_whole_picture_shows_of_it() -> None:
    live = LivePicture(Picture(reading(4, attached=(("gpu-0", "a"), ("gpu-1", "b"), ("gpu-2", "b")))))
    live.read("a", frozenset({"gpu-0", "gpu-1"}))
    live.read("b", frozenset({"gpu-1"}))
    whole, part = live.whole(), live.of("a", frozenset({"gpu-0", "gpu-1"}))
    assert part.by_host["a"] == whole.by_host["a"] == {"gpu-0", "gpu-1"}
    assert part.shared_at("a") == whole.shared_at("a") == {"gpu-1"}
    assert part.healthy == {"gpu-0", "gpu-1"}


def test_a_device_that_an_incomplete_reading_shows_at_another_host_is_not_shown_at_two() -> None:
    known = reading(10, attached=(("gpu-1", "old"), ("gpu-2", "old")))
    moved = replace(
        reading(10, complete=False, attached=(("gpu-1", "new"), ("gpu-2", "new"))),
        unread=Unread(devices=frozenset({"gpu-2", "gpu-9"})),
    )
    picture = accept(known, 10, moved)
    assert picture.shared_at("new") == {"gpu-2"}

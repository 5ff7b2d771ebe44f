"""When a window is open and when it opens next, by the clock and calendar of its zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from weft.api.windows import Window, next_opening, opening_words


def window(from_: str, to: str, zone: str = "Europe/Berlin", *days: str) -> Window:
    return Window.model_validate({"from": from_, "to": to, "timeZone": zone, "days": list(days)})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# 2026-11-27 is a Friday; Berlin is an hour ahead of UTC in winter, two in summer.
@pytest.mark.parametrize(
    ("which", "moment", "is_open"),
    [
        (window("02:00", "04:00"), "2026-11-27 00:59", False),
        (window("02:00", "04:00"), "2026-11-27 01:00", True),
        (window("02:00", "04:00"), "2026-11-27 02:59", True),
        (window("02:00", "04:00"), "2026-11-27 03:00", False),
        (window("02:00", "04:00"), "2026-07-27 00:30", True),
        (window("22:00", "06:00", "Europe/Berlin", "Friday"), "2026-11-27 20:59", False),
        (window("22:00", "06:00", "Europe/Berlin", "Friday"), "2026-11-28 04:59", True),
        (window("22:00", "06:00", "Europe/Berlin", "Friday"), "2026-11-28 21:30", False),
        (window("08:00", "08:00", "UTC", "Sunday"), "2026-11-30 07:59", True),
        (window("08:00", "08:00", "UTC", "Sunday"), "2026-11-30 08:00", False),
        # The clock goes from 02:00 to 03:00: nobody sees half past two.
        (window("02:00", "03:00"), "2026-03-29 00:59", False),
        (window("02:00", "03:00"), "2026-03-29 01:00", False),
        (window("02:30", "05:00"), "2026-03-29 01:00", True),
        # It goes from 03:00 back to 02:00: half past two comes twice.
        (window("02:15", "02:45"), "2026-10-25 00:30", True),
        (window("02:15", "02:45"), "2026-10-25 01:00", False),
        (window("02:15", "02:45"), "2026-10-25 01:30", True),
    ],
)
def test_a_window_is_open_while_the_clock_of_its_zone_is_within_it(
    which: Window, moment: str, is_open: bool
) -> None:
    assert which.is_open(at(moment)) is is_open


@pytest.mark.parametrize(
    ("which", "moment", "words"),
    [
        (window("02:00", "04:00"), "2026-11-27 04:20", "Saturday 2026-11-28 02:00 Europe/Berlin"),
        (window("02:00", "04:00", "UTC", "Friday"), "2026-11-27 02:00", "Friday 2026-12-04 02:00 UTC"),
        (window("02:30", "05:00"), "2026-03-28 12:00", "Sunday 2026-03-29 03:00 Europe/Berlin"),
        (window("02:00", "03:00"), "2026-03-28 12:00", "Monday 2026-03-30 02:00 Europe/Berlin"),
        (
            window("02:00", "03:00", "Europe/Berlin", "Sunday"),
            "2026-03-28 12:00",
            "Sunday 2026-04-05 02:00 Europe/Berlin",
        ),
        # Half past two comes again, half an hour from now.
        (window("02:30", "03:00"), "2026-10-25 01:00", "Sunday 2026-10-25 02:30 Europe/Berlin"),
    ],
)
def test_the_next_opening_is_the_moment_at_which_it_is_open_again(
    which: Window, moment: str, words: str
) -> None:
    opening = which.next_opening(at(moment))
    assert opening_words(opening) == words
    assert which.is_open(opening)
    assert not which.is_open(opening.astimezone(UTC) - timedelta(minutes=1))


def test_of_several_windows_the_first_to_open_counts() -> None:
    several = (window("06:00", "07:00", "UTC"), window("05:00", "05:30", "UTC"))
    assert next_opening(several, at("2026-11-27 04:20")) == at("2026-11-27 05:00")


def test_a_zone_that_this_machine_does_not_know_is_said() -> None:
    with pytest.raises(ValueError, match="Mars/Olympus is not known"):
        window("00:00", "01:00", "Mars/Olympus").is_open(at("2026-11-27 04:20"))

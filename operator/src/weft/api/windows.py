"""Times of the week at which something is allowed: parts shared by groups and fabrics."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, ClassVar
from zoneinfo import ZoneInfo

from pydantic import Field, StringConstraints

from weft.api.cel import Rule
from weft.api.meta import Model
from weft.api.values import Explained

TimeOfDay = Annotated[
    str,
    StringConstraints(min_length=5, max_length=5, pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"),
    Explained("must be a time of the day with two digits each, from 00:00 to 23:59"),
]
TimeZone = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Z][A-Za-z0-9_+-]*(/[A-Z][A-Za-z0-9_+-]*)*$"),
    Explained("must be a time zone of the tz database, for example Europe/Berlin or UTC"),
]


class Day(enum.StrEnum):
    """A day of the week."""

    MONDAY = "Monday"
    TUESDAY = "Tuesday"
    WEDNESDAY = "Wednesday"
    THURSDAY = "Thursday"
    FRIDAY = "Friday"
    SATURDAY = "Saturday"
    SUNDAY = "Sunday"


_DAYS = tuple(Day)
LONGEST_DAYS = 16
"""One that is skipped by a change of the clock comes a week later."""
SKIPPED_MINUTES = 24 * 60
"""No change of a clock skips more."""


class Window(Model):
    """From one time of some days to another, at most a day later."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            # An unknown zone is an error of the expression, which is a refusal, too.
            "!has(self.timeZone) || timestamp('2026-01-01T00:00:00Z').getHours(self.timeZone) >= 0",
            "timeZone must be one of the tz database, for example Europe/Berlin",
            ".timeZone",
        ),
    )

    days: Annotated[tuple[Day, ...], Field(max_length=7)] = Field(
        default=(),
        description="Days on which it begins. Absent: every day.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    from_: TimeOfDay = Field(alias="from", description="When it begins, for example 22:00.")
    to: TimeOfDay = Field(
        description="When it ends, for example 06:00: on the next day where it is not later than `from`. Equal to"
        " `from`: a whole day."
    )
    time_zone: TimeZone | None = Field(
        default=None,
        description="Time zone whose clock and calendar are meant, daylight saving time included. Absent: UTC.",
    )

    @property
    def zone(self) -> ZoneInfo:
        """Its time zone. Raises ValueError where this machine does not know it."""
        try:
            return ZoneInfo(self.time_zone or "UTC")
        except (KeyError, OSError) as error:
            raise ValueError(f"time zone {self.time_zone} is not known") from error

    def is_open(self, moment: datetime) -> bool:
        """Whether the clock and calendar of its zone are within it at a moment. Raises ValueError for an unknown zone.

        So an hour that comes twice is open twice, and one that is skipped is not.
        """
        local = moment.astimezone(self.zone)
        begin, end, at = time.fromisoformat(self.from_), time.fromisoformat(self.to), local.time()
        if begin < end:
            return begin <= at < end and self._is_on(local.date())
        yesterday = local.date() - timedelta(days=1)
        return (at >= begin and self._is_on(local.date())) or (at < end and self._is_on(yesterday))

    def _is_on(self, day: date) -> bool:
        return not self.days or _DAYS[day.weekday()] in self.days

    def next_opening(self, moment: datetime) -> datetime:
        """The first of its beginnings after a moment, in its zone. Raises ValueError for an unknown zone."""
        zone = self.zone
        today = moment.astimezone(zone).date()
        for ahead in range(-1, LONGEST_DAYS):
            day = today + timedelta(days=ahead)
            local = datetime.combine(day, time.fromisoformat(self.from_), zone)
            at = local.astimezone(UTC)
            if at.astimezone(zone).replace(tzinfo=None) != local.replace(tzinfo=None):
                # The clock skips that time: it begins where the clock goes on, if that is within it.
                earliest = local.replace(fold=1).astimezone(UTC)
                minutes = (earliest + timedelta(minutes=each) for each in range(SKIPPED_MINUTES))
                at = next((each for each in minutes if self.is_open(each)), moment)
            elif at <= moment:
                # The clock may come to that time twice.
                at = local.replace(fold=1).astimezone(UTC)
            if at > moment and self._is_on(day):
                return at.astimezone(zone)
        raise AssertionError("a day of the week comes within a fortnight")


def next_opening(windows: Iterable[Window], moment: datetime) -> datetime:
    """When the first of some windows opens. Raises ValueError where a time zone is not known."""
    return min(window.next_opening(moment) for window in windows)


def opening_words(moment: datetime) -> str:
    """A moment in its time zone, for people: Saturday 2026-11-28 02:00 Europe/Berlin."""
    return f"{_DAYS[moment.weekday()]} {moment:%Y-%m-%d %H:%M} {moment.tzinfo}"

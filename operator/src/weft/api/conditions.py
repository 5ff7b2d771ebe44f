"""Conditions: what is true of an object now, since when, and why."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from weft.api.meta import Model
from weft.api.values import Message, Reason, Timestamp, Version

MAX_CONDITIONS = 16

Status = Literal["True", "False", "Unknown"]


class Condition(Model):
    """One condition. Positive polarity: True is what a user hopes for, unless the type says otherwise."""

    type: Annotated[
        str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z]([A-Za-z0-9]*[A-Za-z0-9])?$")
    ] = Field(description="What the condition is about, for example Ready.")
    status: Status = Field(description="True, False or Unknown.")
    reason: Reason = Field(description="One word for programs: why the status is what it is.")
    message: Message = Field(default="", description="For people: why, and what would change it.")
    observed_generation: Version = Field(
        default=0,
        description="Generation of the spec that this was said about; older than the object's: outdated.",
    )
    last_transition_time: Timestamp = Field(description="When the status last changed.")


Conditions = Annotated[tuple[Condition, ...], Field(max_length=MAX_CONDITIONS)]

CONDITION_LIST: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
"""Schema keywords of every list of conditions."""


def find(conditions: tuple[Condition, ...], type: str) -> Condition | None:
    """The condition of this type, or None."""
    return next((condition for condition in conditions if condition.type == type), None)


def is_true(conditions: tuple[Condition, ...], type: str) -> bool:
    """Whether there is such a condition and it is True."""
    condition = find(conditions, type)
    return condition is not None and condition.status == "True"


def is_false(conditions: tuple[Condition, ...], type: str) -> bool:
    """Whether there is such a condition and it is False."""
    condition = find(conditions, type)
    return condition is not None and condition.status == "False"


def with_condition(
    conditions: tuple[Condition, ...],
    type: str,
    status: bool | None,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """The conditions with this one set; None is Unknown.

    The time of the last transition changes only with the status, so that a repeated call returns an equal
    tuple. A message beyond 1,024 characters is cut. Raises pydantic.ValidationError when type or reason is
    malformed.
    """
    word: Status = "Unknown" if status is None else "True" if status else "False"
    before = find(conditions, type)
    since = before.last_transition_time if before is not None and before.status == word else now
    condition = Condition(
        type=type,
        status=word,
        reason=reason,
        message=message,
        observed_generation=generation,
        last_transition_time=since,
    )
    if before is None:
        return (*conditions, condition)
    return tuple(condition if other.type == type else other for other in conditions)

"""Misbehaviour on order: which requests are struck, and by what."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class FaultKind(enum.StrEnum):
    """What goes wrong; docs/emulator.md says how each looks to a client."""

    FAIL = "fail"
    FAIL_AFTER_COMMIT = "fail-after-commit"
    LIE = "lie"
    PARTIAL = "partial"
    DROP = "drop"
    DROP_AFTER_COMMIT = "drop-after-commit"
    HANG = "hang"
    ERROR_IN_200 = "error-in-200"
    GARBAGE = "garbage"
    VANISH = "vanish"
    UNHEALTHY = "unhealthy"


STANDING = frozenset({FaultKind.VANISH, FaultKind.UNHEALTHY})
"""Faults of devices rather than of requests."""
SELECTIVE = frozenset({FaultKind.LIE, FaultKind.PARTIAL})
"""Faults that leave out the matching blocks of a change and let the others through."""
ON_CHANGE = SELECTIVE | {FaultKind.FAIL_AFTER_COMMIT, FaultKind.DROP_AFTER_COMMIT}
"""Faults that only a change can have."""


class Verb(enum.StrEnum):
    """What a request does."""

    ATTACH = "attach"
    DETACH = "detach"
    CHANGE = "change"
    READ = "read"


class Match(BaseModel):
    """Which requests or blocks; what is left out matches everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    verb: Verb | None = None
    block: str = Field(default="*", min_length=1, max_length=64)
    host: str = Field(default="*", min_length=1, max_length=64)
    path: str = Field(default="", max_length=256)

    @field_validator("path")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class Fault(BaseModel):
    """One order for misbehaviour. `times`: how many requests it strikes; -1 always."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FaultKind
    match: Match = Match()
    times: int | None = Field(default=None, ge=-1, le=1_000_000)
    status: int = Field(default=500, ge=400, le=599)
    seconds: float = Field(default=30.0, ge=0.0, le=3600.0)
    retryAfterSeconds: int | None = Field(default=None, ge=0, le=3600)  # noqa: N815  JSON's own spelling

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.kind in STANDING and self.times not in (None, -1):
            raise ValueError(f"{self.kind} stands until it is removed; it takes no `times`")
        if self.kind in ON_CHANGE and self.match.verb is Verb.READ:
            raise ValueError(f"{self.kind} happens to a change, not to a read")
        return self

    @property
    def limit(self) -> int:
        """How often it may strike; -1 without end."""
        if self.times is not None:
            return self.times
        return -1 if self.kind in STANDING else 1


@dataclass(frozen=True)
class Target:
    """What a request is about, for matching: the blocks it attaches, detaches or reads."""

    path: str
    host: str = ""
    attach: frozenset[str] = frozenset()
    detach: frozenset[str] = frozenset()
    read: str | None = None
    """Of a read: the block that the path names, or empty."""

    def matching(self, match: Match) -> frozenset[str]:
        """The blocks of a change that the match names."""
        blocks: frozenset[str] = frozenset()
        if match.verb in (None, Verb.CHANGE, Verb.ATTACH):
            blocks |= self.attach
        if match.verb in (None, Verb.CHANGE, Verb.DETACH):
            blocks |= self.detach
        return frozenset(block for block in blocks if fnmatchcase(block, match.block))

    def matches(self, fault: Fault) -> bool:
        """Whether the fault strikes this request."""
        match = fault.match
        if not fnmatchcase(self.host, match.host) or not re.search(match.path, self.path):
            return False
        if self.read is None:
            return bool(self.matching(match))
        return (
            match.verb in (None, Verb.READ)
            and fault.kind not in ON_CHANGE
            and fnmatchcase(self.read, match.block)
        )


class Faults:
    """The faults in force and how often each struck."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._entries: list[tuple[Fault, list[int]]] = []
        self.generation = 0
        """Grows whenever a standing fault may have come or gone."""
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """Put these in force too."""
        self._entries.extend((fault, [0]) for fault in faults)
        self.generation += 1

    def clear(self) -> None:
        """Take all out of force."""
        self._entries.clear()
        self.generation += 1

    def strike(self, target: Target) -> list[Fault]:
        """The faults of this request: every hang, and the first of any other kind. Counts them."""
        struck: list[Fault] = []
        for fault, count in self._entries:
            if fault.kind in STANDING or count[0] == fault.limit or not target.matches(fault):
                continue
            if fault.kind is FaultKind.HANG or all(other.kind is FaultKind.HANG for other in struck):
                count[0] += 1
                struck.append(fault)
        return struck

    def standing(self, kind: FaultKind, blocks: Iterable[str]) -> frozenset[str]:
        """Which of the blocks have this standing fault."""
        patterns = [fault.match.block for fault, _ in self._entries if fault.kind is kind]
        if not patterns:
            return frozenset()
        return frozenset(block for block in blocks if any(fnmatchcase(block, p) for p in patterns))

    def describe(self) -> list[dict[str, object]]:
        """All in force, with how often each struck."""
        return [
            fault.model_dump(mode="json", exclude_defaults=True) | {"struck": count[0], "limit": fault.limit}
            for fault, count in self._entries
        ]

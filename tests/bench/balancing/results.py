"""What was played, as docs/evaluation.md is made from it: one line for each run, in tests/bench/results.

Benches write all that they know of a run to build/bench; this is what is kept of it in the repository.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, astuple, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import constants

FOLDER = Path(__file__).parents[1] / "results"


@dataclass(frozen=True, order=True)
class Run:
    """One policy on the requests of one case and seed."""

    case: str
    seed: int
    policy: str
    drains: bool
    """Replicas end their old work before they change their role. Fixed splits: always said."""
    scrape_seconds: float
    """0: it looks at no metrics."""
    split: str
    """To begin with; of fixed ones the split itself."""
    within: float
    """Share of the requests within both objectives."""
    requests: int
    answer_tokens: int
    decisions: int
    accelerator_hours: float
    """Accelerators that start or drain are counted: what is held is paid for, and drawn at full power."""
    commit: str

    @property
    def goodput(self) -> float:
        """Requests within both objectives per accelerator-hour."""
        return self.within * self.requests / self.accelerator_hours

    @property
    def watt_hours(self) -> float:
        """Energy per request."""
        return constants.WATTS * self.accelerator_hours / self.requests

    @property
    def cost(self) -> float:
        """US dollars per million answer tokens."""
        return constants.PRICE * self.accelerator_hours * 1e6 / self.answer_tokens

    @property
    def group(self) -> tuple[Any, ...]:
        """Of fixed splits all of a case are replaced as one."""
        return self.case, self.seed, self.policy, self.drains, self.scrape_seconds


class Kept(Protocol):
    """A line of results: an ordered dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __lt__(self, other: Any, /) -> bool: ...

    @property
    def group(self) -> tuple[Any, ...]:
        """Lines with the same are replaced as one."""


K = TypeVar("K", bound=Kept)


def merged(kept: Iterable[K], played: Sequence[K]) -> list[K]:
    """What was played now takes the place of what was kept of the same."""
    groups = {each.group for each in played}
    return sorted([*(each for each in kept if each.group not in groups), *played])


def read(path: Path, kind: type[K]) -> list[K]:
    """All lines, of a dataclass of bools, ints, floats and texts; none where there is no file."""
    if not path.exists():
        return []
    made: dict[Any, Callable[[str], Any]] = {"bool": "True".__eq__, "int": int, "float": float, "str": str}
    with path.open(newline="") as file:
        return [
            kind(*(made[field.type](row[field.name]) for field in fields(kind)))
            for row in csv.DictReader(file)
        ]


def write(path: Path, lines: Sequence[K]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(field.name for field in fields(lines[0]))
        for each in lines:
            values = astuple(each)
            out.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in values)


def put(
    rows: Iterable[Mapping[str, Any]], row: Mapping[str, Any], key: Sequence[str]
) -> list[Mapping[str, Any]]:
    """The rows of build/bench with this one, in the place of the one that has the same key."""
    return [each for each in rows if any(each[name] != row[name] for name in key)] + [row]


def save(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": list(rows)}, indent=1) + "\n")


def saved(path: Path) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return rows

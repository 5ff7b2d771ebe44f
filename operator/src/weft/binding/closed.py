"""Fabrics that give no devices to new requests now: suspended, or outside of their windows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from weft.api.windows import Window, next_opening, opening_words
from weft.cluster import Object

LOOK_SECONDS = 30.0
"""How often it is looked whether a window opened or closed, where there is one."""


class Closed(NamedTuple):
    """Why a fabric gives nothing now."""

    reason: str
    words: str


def is_suspended(fabric: Object) -> bool:
    """Whether nothing may be given there, whoever asks for it."""
    return bool(fabric["spec"].get("suspend"))


def closed(fabrics: Iterable[Object], wall: datetime | None) -> dict[str, Closed]:
    """The fabrics that give nothing, by name. `wall`: None where only what is asked for by name counts."""
    found: dict[str, Closed] = {}
    for raw in fabrics:
        name = raw["metadata"]["name"]
        if is_suspended(raw):
            found[name] = Closed("Suspended", f"Fabric {name} is suspended")
        elif wall is not None and (why := _outside(raw["spec"].get("windows") or (), wall)):
            found[name] = Closed("OutsideWindow", f"Fabric {name} {why}")
    return found


def _outside(raws: Iterable[Object], wall: datetime) -> str:
    try:
        windows = [Window.model_validate(each) for each in raws]
        if not windows or any(each.is_open(wall) for each in windows):
            return ""
        return f"gives devices again from {opening_words(next_opening(windows, wall))} on"
    except ValueError as error:
        # What cannot be read is not known to be open.
        return f"gives none: its spec.windows cannot be read ({str(error).splitlines()[0]})"

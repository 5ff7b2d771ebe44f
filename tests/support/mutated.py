"""Specs with something wrong or odd in them, made at random from those that use every field."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from weft.api.crd import DEFINITIONS
from weft_dev import ROOT

Object = dict[str, Any]

RESOURCES = {definition.resource.kind: definition.resource for definition in DEFINITIONS}
WRITTEN_BY_WEFT = "DeviceAttachment"
ENDPOINTS = (
    "http://127.0.0.1:1", "https://127.0.0.1:1/base", "http://127.0.0.1:65535/redfish/v1", "http://", "", "127.0.0.1",
    "ftp://127.0.0.1", "http://user:secret@127.0.0.1:1", "http://127.0.0.1:1?a=b", "http://127.0.0.1:99999", "http://[::1]:1",
)  # fmt: skip
"""Nothing but loopback: no name, no other address is ever asked."""
ODD: tuple[Any, ...] = (
    None, "", " ", "a", "A" * 300, "ünï-\u202e", "../../etc", "a b", "-", "0", "1e400", "NaN", "9999999999999999999Ti",
    "-1", "1.5", "1n", 0, 1, -1, 2**31, 2**63 - 1, -(2**63), 0.5, True, False, [], {}, [None], [[]], {"": ""},
    {"a": {"b": []}},
)  # fmt: skip


def seeds() -> list[Object]:
    """One object of each kind a user writes, and those of the examples."""
    newest = max((ROOT / "tests" / "data" / "stored").iterdir(), key=lambda path: _version(path))
    files = [*newest.glob("*.yaml"), *sorted((ROOT / "docs" / "examples").glob("[0-9]*.yaml"))]
    bodies = [body for file in sorted(files) for body in yaml.safe_load_all(file.read_text()) if body]
    return [
        {
            "apiVersion": body["apiVersion"],
            "kind": body["kind"],
            "metadata": {"name": body["metadata"]["name"]},
            "spec": body["spec"],
        }
        for body in bodies
        if body["kind"] in RESOURCES and body["kind"] != WRITTEN_BY_WEFT
    ]


def _version(path: Path) -> tuple[int, ...]:
    return tuple(map(int, path.name.removeprefix("v").split(".")))


def mutated(seed: int, fabric: str) -> Object:
    """One object, the same for the same seed. `fabric`: of the pools that keep theirs."""
    chance = random.Random(seed)
    body = copy.deepcopy(chance.choice(SEEDS))
    body["metadata"]["name"] = f"fuzz-{seed}"
    spec = body["spec"]
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 6))):
        places = list(_places(spec))
        if not places:
            break
        holder, key = chance.choice(places)
        _change(chance, holder, key)
    if "fabricRef" in spec and spec["fabricRef"] == _FABRIC_OF_POOLS:
        spec["fabricRef"] = {"name": fabric}
    if "endpoint" in spec:
        spec["endpoint"] = chance.choice(ENDPOINTS) if isinstance(spec["endpoint"], str) else spec["endpoint"]
    return body


@functools.cache
def _values() -> list[Any]:
    return [holder[key] for body in SEEDS for holder, key in _places(body["spec"])]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        yield value, key
        yield from _places(below)


def _change(chance: random.Random, holder: Any, key: Any) -> None:
    how = chance.randrange(12)
    value = holder[key]
    if how >= 6:
        # What is right elsewhere is more likely to be taken, and to mean something that nobody meant.
        alike = [one for one in _values() if type(one) is type(value)]
        holder[key] = copy.deepcopy(chance.choice(alike))
    elif how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, list):
        holder.append(copy.deepcopy(value))
    elif how == 2 and isinstance(value, list):
        holder[key] = value * chance.choice((2, 50, 2000))
    elif how == 3 and isinstance(value, int) and not isinstance(value, bool):
        holder[key] = chance.choice((value + 1, value - 1, value * 1000, -value, 0))
    elif how == 4 and isinstance(holder, dict):
        holder[chance.choice(("misspelt", "spec", key + "s", key.upper()))] = value
    else:
        holder[key] = copy.deepcopy(chance.choice(ODD))


SEEDS = seeds()
_FABRIC_OF_POOLS = next(body["spec"]["fabricRef"] for body in SEEDS if body["kind"] == "GPUPool")

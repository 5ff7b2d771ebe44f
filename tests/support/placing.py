"""Requests, devices and hosts for tests of placement, in few words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from weft.binding.asked import Choice, Constraint, Need, Selector, Shape, Waiting
from weft.binding.membership import PoolKey
from weft.binding.plan import Assignment, Placement, Refusal
from weft.binding.search import place as place_on
from weft.binding.stock import HostOffer, Offer, Stock
from weft.fabric.driver import Device, DeviceKind

GPUS = (DeviceKind.ACCELERATOR, "gpus")
CXL = (DeviceKind.MEMORY, "cxl")
GIB = 2**30


def place(
    waiting: list[Waiting],
    offers: list[Offer],
    hosts: list[HostOffer],
    quota: Mapping[tuple[str, PoolKey], int] | None = None,
) -> Placement:
    return place_on(waiting, Stock(tuple(offers), tuple(hosts), quota or {}))


def gpu(
    name: str, *, domain: str = "nvl-0", model: str = "A100", hosts: frozenset[str] | None = None
) -> Offer:
    attributes = {"type": "GPU", "model": model, "nvlinkDomain": domain}
    return Offer("rack", GPUS, Device(name, DeviceKind.ACCELERATOR, attributes, 80 * GIB, True, hosts))


def memory(name: str, gib: int, domain: str = "cxl-0") -> Offer:
    attributes = {"type": "CXL", "cxlDomain": domain}
    return Offer("rack", CXL, Device(name, DeviceKind.MEMORY, attributes, gib * GIB, True))


def host(name: str, cpu: int = 64, closed: str = "", **labels: str) -> HostOffer:
    return HostOffer("rack", name, f"node-{name}", labels, Decimal(cpu), 512 * GIB, closed)


def request(
    name: str, *needs: Need, created: str = "2026-01-01", namespace: str = "a", **shape: Any
) -> Waiting:
    asked = Shape(needs, frozenset({GPUS, CXL}))
    return Waiting(f"uid-{name}", namespace, name, created, replace(asked, **shape))


def model(*models: str) -> tuple[Choice, ...]:
    """Alternatives by model, each with its model as its name."""
    return tuple(Choice(Selector((("model", each),)), name=each.lower()) for each in models)


def gpus(count: int, *choices: Choice, name: str = "main") -> Need:
    return Need(name, DeviceKind.ACCELERATOR, count=count, choices=choices or (Choice(),))


def bytes_(gib: int, name: str = "kv") -> Need:
    return Need(name, DeviceKind.MEMORY, size_bytes=gib * GIB)


def tied(attribute: str, *needs: str, required: bool = True) -> tuple[Constraint, ...]:
    return (Constraint(attribute, frozenset(needs or ("main",)), required),)


def chosen(assignment: Assignment) -> set[str]:
    return {item.offer.device.id for item in assignment.devices}


def only(placement: Placement) -> Assignment:
    assert placement.refusals == ()
    (assignment,) = placement.assignments
    return assignment


def refused(placement: Placement) -> Refusal:
    assert placement.assignments == ()
    return placement.refusals[0]

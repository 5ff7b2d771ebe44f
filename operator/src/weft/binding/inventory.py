"""What to believe of an inventory reading. Pure.

A reading that is incomplete, or lacks more than a fifth of the devices known before, adds to the picture but
removes nothing from it: a manager that restarts may serve an empty but valid collection for a while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from weft.fabric.driver import Device, Host, Inventory

P = TypeVar("P", Device, Host)

LARGEST_CREDIBLE_LOSS = 0.2
"""Share of the known devices that may be gone between two readings before the reading is not believed."""


@dataclass(frozen=True)
class Picture:
    """The inventory Weft works with, and why it differs from the last reading if it does."""

    inventory: Inventory
    problem: str = ""
    """Empty when the last reading was taken as it was; else InventoryIncomplete or InventoryShrank."""
    message: str = ""

    @cached_property
    def by_host(self) -> Mapping[str, frozenset[str]]:
        """The devices that are shown at each host."""
        found: dict[str, set[str]] = {}
        for device, host in self.inventory.attachments:
            found.setdefault(host, set()).add(device)
        return {host: frozenset(devices) for host, devices in found.items()}

    @cached_property
    def made(self) -> frozenset[str]:
        """Hosts that are machines only while devices are attached."""
        return frozenset(host.id for host in self.inventory.hosts if host.made)

    @cached_property
    def healthy(self) -> frozenset[str]:
        return frozenset(device.id for device in self.inventory.devices if device.healthy)

    @cached_property
    def at_several_hosts(self) -> frozenset[str]:
        """Devices that are shown at more than one host: whoever uses one of them does not have it alone."""
        counts = Counter(device for device, _ in self.inventory.attachments)
        return frozenset(device for device, count in counts.items() if count > 1)

    def shared_at(self, host: str) -> frozenset[str]:
        """Devices that the host has, and another one, too."""
        return self.by_host.get(host, frozenset()) & self.at_several_hosts


def accept(
    known: Inventory | None, known_count: int, reading: Inventory, accepted_count: int | None = None
) -> Picture:
    """Merge a reading into what is known.

    `known_count` is the number of devices in the Fabric's status: it outlives a restart of the operator.
    `accepted_count` is the number of devices that an administrator declared right.
    """
    before = max(known_count, len(known.devices) if known else 0)
    if known is not None:
        reading = replace(
            reading, devices=_kept(known.devices, reading.devices), hosts=_kept(known.hosts, reading.hosts)
        )
    if not reading.complete:
        message = "; ".join(reading.problems[:3]) or "the manager did not answer for every member"
        return Picture(_union(known, reading), "InventoryIncomplete", message)
    if len(reading.devices) < before * (1 - LARGEST_CREDIBLE_LOSS) and accepted_count != len(reading.devices):
        message = (
            f"{len(reading.devices)} devices reported where {before} were known; if that is right, "
            f"annotate the Fabric with weft.dev/accept-inventory={len(reading.devices)}"
        )
        return Picture(_union(known, reading), "InventoryShrank", message)
    return Picture(reading, "", "; ".join(reading.problems[:3]))


def _kept(before: tuple[P, ...], now: tuple[P, ...]) -> tuple[P, ...]:
    """What was read now; what is the same as before is the same object, so that what was made of it stays good."""
    if before == now:
        return before
    known = {each.id: each for each in before}
    return tuple(old if (old := known.get(each.id)) == each else each for each in now)


def _union(known: Inventory | None, reading: Inventory) -> Inventory:
    if known is None:
        return replace(reading, complete=False)
    devices = {device.id: device for device in (*known.devices, *reading.devices)}
    hosts = {host.id: host for host in (*known.hosts, *reading.hosts)}
    read = set(reading.attachments)
    elsewhere = {device for device, _ in read}
    # A device that was read at another host has moved, where the reading can say that it is not at the old one.
    kept = {
        (device, host)
        for device, host in known.attachments
        if (device, host) not in read and not (device in elsewhere and reading.shows_absence(device, host))
    }
    attachments = tuple(sorted(read | kept))
    return replace(
        reading,
        devices=tuple(devices.values()),
        hosts=tuple(hosts.values()),
        attachments=attachments,
        complete=False,
    )


class LivePicture:
    """A picture that follows readings of single hosts: each costs what the host has, not what the fabric has."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._devices = {device.id: device for device in picture.inventory.devices}
        self._at: dict[str, frozenset[str]] = dict(picture.by_host)
        self._hosts_of: dict[str, set[str]] = {}
        for device, host in picture.inventory.attachments:
            self._hosts_of.setdefault(device, set()).add(host)
        self._is_behind = False
        self.made = picture.made
        """As in the picture: a reading of one host does not change it."""

    def read(self, host: str, devices: frozenset[str]) -> None:
        """A newer reading of one host's devices."""
        before = self._at.get(host, frozenset())
        if devices == before:
            return
        self._at[host], self._is_behind = devices, True
        for device in before - devices:
            self._hosts_of[device].discard(host)
        for device in devices - before:
            self._hosts_of.setdefault(device, set()).add(host)

    def at(self, host: str) -> frozenset[str]:
        """The devices that are shown at a host."""
        return self._at.get(host, frozenset())

    def of(self, host: str, devices: frozenset[str]) -> Picture:
        """What it shows of one host and of these devices."""
        shown = self.at(host)
        pairs = tuple((device, place) for device in sorted(shown) for place in sorted(self._hosts_of[device]))
        known = tuple(self._devices[device] for device in sorted(devices) if device in self._devices)
        inventory = self._picture.inventory
        small = Inventory(known, (), pairs, inventory.complete)
        return Picture(small, self._picture.problem, self._picture.message)

    def whole(self) -> Picture:
        """All of it; made anew when something was read since the last time."""
        if self._is_behind:
            pairs = sorted((device, host) for host, devices in self._at.items() for device in devices)
            inventory = replace(self._picture.inventory, attachments=tuple(pairs))
            self._picture, self._is_behind = replace(self._picture, inventory=inventory), False
        return self._picture

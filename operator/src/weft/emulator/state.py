"""Who has what: the state machine of attachments, and the resources that clients created. No I/O, no clock."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from weft.emulator.inventory import World


class Reason(enum.StrEnum):
    """Why a change is refused."""

    UNKNOWN_BLOCK = "unknown-block"
    OUT_OF_REACH = "out-of-reach"
    IN_USE = "in-use"


class RefusedError(Exception):
    """The change is not allowed as things are; nothing was changed."""

    def __init__(self, reason: Reason, blocks: tuple[str, ...]) -> None:
        super().__init__(f"{reason}: {', '.join(blocks)}")
        self.reason = reason
        self.blocks = blocks


@dataclass(frozen=True)
class Change:
    """What a new list of blocks means for a host."""

    host: str
    attach: tuple[str, ...] = ()
    detach: tuple[str, ...] = ()

    def without(self, blocks: frozenset[str]) -> Change:
        """The same change with these blocks left as they are."""
        return replace(
            self,
            attach=tuple(block for block in self.attach if block not in blocks),
            detach=tuple(block for block in self.detach if block not in blocks),
        )

    @property
    def acts(self) -> int:
        """How many attaches and detaches."""
        return len(self.attach) + len(self.detach)


@dataclass(frozen=True)
class Record:
    """A resource that a client created: a composed system, a connection, a part of a device."""

    document: dict[str, Any]
    """Its own properties as they are shown."""
    host: str = ""
    """Who has something through it."""
    blocks: tuple[str, ...] = ()
    """What the host has through it; of a part: the part itself."""
    device: str = ""
    """Of a part (a memory chunk, a volume): the device that it is carved from."""
    bytes: int = 0
    offset: int = 0
    """Of a part: its size, and where in the device it begins."""


class State:
    """Attachments, and changes under way. In permissive mode a block may be on several hosts, and a change
    whose ETag is out of date is made all the same.

    A block is a device, or a part that was carved from one; a device with parts is not attached as a whole."""

    def __init__(self, world: World, permissive: bool = False) -> None:
        self._world = world
        self.permissive = permissive
        self._blocks: dict[str, list[str]] = {host: [] for host in world.hosts}
        self._hosts: dict[str, list[str]] = {device: [] for device in world.devices}
        self._pending: dict[str, list[str]] = {}
        self._versions: dict[str, int] = {}
        self._revision = 0
        self.records: dict[str, Record] = {}
        """By path, in the order they were created."""
        self._count = 0

    def blocks_of(self, host: str) -> tuple[str, ...]:
        """The blocks attached to this host, in the order they came."""
        return tuple(self._blocks[host])

    def hosts_of(self, block: str) -> tuple[str, ...]:
        """The hosts that have this block."""
        return tuple(self._hosts[block])

    def parts_of(self, device: str) -> tuple[Record, ...]:
        """What is carved from this device."""
        return tuple(record for record in self.records.values() if record.device == device)

    def device_of(self, block: str) -> str:
        """The device that a block is, or is a part of."""
        return block if block in self._world.devices else block.rpartition(".")[0]

    def next_id(self) -> str:
        """An id that no created resource had before."""
        self._count += 1
        return str(self._count)

    def is_composing(self, name: str) -> bool:
        """Whether a change of this block, or of the resource at this path, is under way."""
        return name in self._pending

    def version(self, name: str) -> int:
        """Grows with each change of this host or block."""
        return self._versions.get(name, 0)

    def plan(self, host: str, wanted: Iterable[str]) -> Change:
        """The acts that give the host exactly these blocks. Raises RefusedError."""
        target = tuple(dict.fromkeys(wanted))
        now = self._blocks[host]
        attach = tuple(block for block in target if block not in now)
        self._refuse(Reason.UNKNOWN_BLOCK, (b for b in attach if b not in self._hosts))
        if not self.permissive:
            reach = self._world.reaches
            self._refuse(Reason.OUT_OF_REACH, (b for b in attach if not reach(host, self.device_of(b))))
            self._refuse(
                Reason.IN_USE,
                (b for b in attach if self._hosts[b] or self.parts_of(b) or self._held_elsewhere(b, host)),
            )
        return Change(host, attach, tuple(block for block in now if block not in target))

    def _held_elsewhere(self, block: str, host: str) -> bool:
        return any(holder != host for holder in self._pending.get(block, ()))

    @staticmethod
    def _refuse(reason: Reason, blocks: Iterable[str]) -> None:
        found = tuple(blocks)
        if found:
            raise RefusedError(reason, found)

    def begin(self, host: str, names: Iterable[str]) -> None:
        """Mark the blocks, and the paths of created resources, of a change that takes time; in normal mode no
        other host can have them."""
        for name in names:
            self._pending.setdefault(name, []).append(host)
            self._touch(name)

    def end(self, host: str, names: Iterable[str]) -> None:
        """Undo `begin`."""
        for name in names:
            holders = self._pending[name]
            holders.remove(host)
            if not holders:
                del self._pending[name]
            self._touch(name)

    def commit(self, change: Change) -> None:
        """Make the change."""
        for block in change.detach:
            self._blocks[change.host].remove(block)
            self._hosts[block].remove(change.host)
            self._touch(block)
        for block in change.attach:
            self._blocks[change.host].append(block)
            self._hosts[block].append(change.host)
            self._touch(block)
        if change.acts:
            self._touch(change.host)

    def create(self, path: str, record: Record) -> None:
        """Have this resource from now on."""
        self.records[path] = record
        if (last := path.rpartition("/")[2]).isdecimal():
            self._count = max(self._count, int(last))
        if record.device:
            for part in record.blocks:
                self._hosts[part] = []
        self._touch(path)

    def delete(self, path: str) -> None:
        """Have it no longer. Its blocks are detached before."""
        record = self.records.pop(path)
        if record.device:
            for part in record.blocks:
                del self._hosts[part]
        self._touch(path)

    def _touch(self, name: str) -> None:
        self._revision += 1
        self._versions[name] = self._revision

    def dump(self) -> dict[str, Any]:
        """What survives a restart, as JSON."""
        return {
            "records": {path: asdict(record) for path, record in self.records.items()},
            "count": self._count,
            "attachments": {host: blocks for host, blocks in self._blocks.items() if blocks},
            "revision": self._revision,
            "versions": self._versions,
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Take over what `dump` gave. Raises ValueError when it names what the inventory has not."""
        for path, record in data.get("records", {}).items():
            self.replay_record(path, record)
        for host, blocks in data["attachments"].items():
            for block in blocks:
                self.replay("attach", host, block)
        self._count = max(self._count, int(data.get("count", 0)))
        self._revision = int(data["revision"])
        self._versions = {str(name): int(version) for name, version in data["versions"].items()}

    def replay(self, act: str, host: str, block: str) -> None:
        """Repeat an act that was journalled. Raises ValueError when it names what the inventory has not."""
        if host not in self._blocks or block not in self._hosts:
            raise ValueError(f"{block} on {host}: not in the inventory")
        if act == "attach" and block not in self._blocks[host]:
            self.commit(Change(host, (block,), ()))
        elif act == "detach" and block in self._blocks[host]:
            self.commit(Change(host, (), (block,)))

    def replay_record(self, path: str, record: Mapping[str, Any] | None) -> None:
        """Repeat a creation or, without a record, a deletion. Raises ValueError, TypeError."""
        if record is None:
            if path in self.records:
                self.delete(path)
            return
        made = Record(**{**record, "blocks": tuple(record["blocks"])})
        if made.device and made.device not in self._world.devices:
            raise ValueError(f"{path}: {made.device} is not in the inventory")
        self.create(path, made)

"""What the leader knows about where devices are, and what may still happen to them. Memory only, no I/O.

Events are put in order by counting, not by a clock: a reading says something about a call only if it began after
the call. Durations are measured between readings, in seconds since the machine started.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

Pair = tuple[str, str]
"""Device and host."""


class Certainty(enum.Enum):
    """What is known about one claimed device and its host."""

    NEVER_CALLED = "no call was made for it"
    CLEAR = (
        "no call can take effect any more, Weft detached what was there, and the manager has the device: not shown at"
        " the host, it is free"
    )
    SETTLED = "inventories far enough apart agree that the device is not there"
    OPEN = "a call may still take effect"


@dataclass
class _History:
    """What happened to one pair."""

    order: int
    """When it was last called for or seen: a reading that began earlier says nothing about it."""
    pending: bool = True
    """Whether a call may have an effect that was not seen yet."""
    was_there: bool = False
    """Whether it was seen at the host, and no detach of ours was answered since: not shown, it may come back."""
    unanswered: int = 0
    """When the last call without an answer ended; 0: every call had one."""
    quiet_since: float | None = None
    quiet_last: float = 0.0
    """When the first and the last reading of device and host after `unanswered` began."""
    absent_since: float | None = None
    absent_last: float = 0.0
    """When the first and the last reading after `order` that do not show it began."""


Before = tuple[tuple[Pair, _History], ...]
"""What was known of the pairs that a call is about, before it."""


class Evidence:
    """One fabric's readings and calls, of this leader."""

    def __init__(self) -> None:
        self._order = 0
        self._pairs: dict[Pair, _History] = {}
        self._hosts: dict[str, int] = {}
        self._first_inventory: float | None = None
        self._last_inventory = 0.0
        self._ours: set[str] = set()
        self._attached: set[str] = set()
        self._uncalled: set[str] = set()
        self._tasks: dict[str, tuple[str, str]] = {}
        self.listed: frozenset[str] | None = None
        """Devices that the last reading of the whole manager has, wherever they are; None: there was none."""

    def next(self) -> int:
        """The order of what begins now."""
        self._order += 1
        return self._order

    def claimed(self, uids: Iterable[str]) -> None:
        """These attachments were created just now, and no call was made for them."""
        uids = set(uids)
        self._ours |= uids
        self._uncalled |= uids

    def attached(self, uid: str) -> None:
        """Its device was seen at the host, called for or not: it is free only when it is gone from there."""
        self._uncalled.discard(uid)
        self._attached.add(uid)

    def is_attached(self, uid: str) -> bool:
        """Whether this process saw the device of this attachment at its host."""
        return uid in self._attached

    def released(self, uid: str, device: str, host: str) -> None:
        """This attachment is gone: its device is free."""
        self._uncalled.discard(uid)
        self._ours.discard(uid)
        self._attached.discard(uid)
        self._pairs.pop((device, host), None)

    def is_uncalled(self, uid: str) -> bool:
        """Whether this attachment was created by this process, and no call was made for it."""
        return uid in self._uncalled

    def is_ours(self, uid: str) -> bool:
        """Whether this attachment was created by this process: it knows every call that was made for it."""
        return uid in self._ours

    def certainty(
        self, uid: str, device: str, host: str, settle_seconds: float, *, called_earlier: bool = False
    ) -> Certainty:
        """What is known of the device of the attachment with this uid.

        `called_earlier`: an earlier leader may have made a call for it whose answer nobody knows.
        """
        if uid in self._uncalled:
            return Certainty.NEVER_CALLED
        history = self._history(device, host)
        if history.absent_since is not None and history.absent_last - history.absent_since >= settle_seconds:
            return Certainty.SETTLED
        if history.was_there:
            # Nobody took it away: what the manager does not show for a moment may be there again in the next.
            return Certainty.OPEN
        if history.pending or self.may_come_late(device, host, settle_seconds, called_earlier=called_earlier):
            return Certainty.OPEN
        if self.listed is not None and device not in self.listed:
            # That the host does not show what the manager does not show at all says nothing about the detach.
            return Certainty.OPEN
        return Certainty.CLEAR

    def may_come_late(
        self, device: str, host: str, settle_seconds: float, *, called_earlier: bool = False
    ) -> bool:
        """Whether a call for the pair had no answer that is known, and may still take effect whatever was seen."""
        if called_earlier and not self._watched_for(settle_seconds):
            return True
        history = self._history(device, host)
        if not history.unanswered:
            return False
        return history.quiet_since is None or history.quiet_last - history.quiet_since < settle_seconds

    def _history(self, device: str, host: str) -> _History:
        """A pair that nobody called for or saw is absent since the first inventory, as far as is known."""
        return self._pairs.setdefault(
            (device, host),
            _History(0, absent_since=self._first_inventory, absent_last=self._last_inventory),
        )

    def _watched_for(self, seconds: float) -> bool:
        return self._first_inventory is not None and self._last_inventory - self._first_inventory >= seconds

    def calling(self, host: str, devices: Iterable[str], uids: Iterable[str]) -> Before:
        """A call is about to be made: from now on the devices may change. Returns what was known before.

        `uids` are the attachments that it is made for; none for a detach.
        """
        order = self._hosts[host] = self.next()
        uids = set(uids)
        is_first = bool(uids) and uids <= self._uncalled
        self._uncalled -= uids
        before = []
        for device in devices:
            history = self._pairs.get((device, host), _History(0))
            before.append(((device, host), replace(history, pending=history.pending and not is_first)))
            self._pairs[device, host] = replace(history, order=order, pending=True, absent_since=None)
        return tuple(before)

    def detached(self, before: Before) -> None:
        """A detach was answered: nothing more of it is to come than what may have been to come before."""
        self._restore(tuple((pair, replace(history, was_there=False)) for pair, history in before))

    def refused(self, before: Before) -> None:
        """The manager said no: the call had no effect, and what was known before it stands."""
        self._restore(before)

    def _restore(self, before: Before) -> None:
        for pair, history in before:
            order = self._hosts[pair[1]] = self.next()
            self._pairs[pair] = replace(history, order=order, absent_since=None)

    def unanswered(self, before: Before) -> None:
        """The call ended without an answer: whatever is seen next, it may take effect after that.

        So may it for the host's other devices: some managers take the whole list of what a host has, and what stood in
        that list comes back when it is written late.
        """
        called = {pair for pair, _ in before}
        for pair, history in before:
            order = self._hosts[pair[1]] = self.next()
            self._pairs[pair] = replace(
                history, order=order, pending=True, unanswered=order, quiet_since=None, absent_since=None
            )
        hosts = {host for _, host in called}
        for pair, history in list(self._pairs.items()):
            if pair[1] in hosts and pair not in called and (history.was_there or history.pending):
                self._pairs[pair] = replace(
                    history, unanswered=self.next(), quiet_since=None, absent_since=None
                )

    def task(self, host: str) -> tuple[str, str] | None:
        """Key and id of the operation that the manager was last known to work on at a host."""
        return self._tasks.get(host)

    def task_began(self, host: str, key: str, id: str) -> None:
        """The manager works on it: until it has ended, nothing else is asked of the host, nor believed."""
        self._tasks[host] = key, id

    def task_ended(self, host: str) -> None:
        self._tasks.pop(host, None)

    def host_read(self, host: str, devices: Iterable[str]) -> None:
        """A host was read just now, and showed these devices."""
        order = self._hosts[host] = self.next()
        for device in devices:
            self._seen((device, host), order)

    def newer_hosts(self, began: int) -> frozenset[str]:
        """Hosts about which something newer is known than an inventory that began then."""
        return frozenset(host for host, order in self._hosts.items() if order > began)

    def inventory_read(
        self,
        began: int,
        at: float,
        shown: frozenset[Pair],
        shows_absence: Callable[[str, str], bool],
        settle_seconds: float,
        *,
        believed: bool,
    ) -> None:
        """An inventory was read; `began` is its order, `at` its time.

        `shows_absence` says of which pairs it is evidence that they are not attached: one block that cannot be read
        says nothing about another. `believed`: it was whole, and says something about every pair.
        """
        if believed:
            self._first_inventory = at if self._first_inventory is None else self._first_inventory
            self._last_inventory = at
        for pair in shown:
            known = self._pairs.get(pair)
            if known is None or known.order < began:
                self._seen(pair, began)
        for pair, history in list(self._pairs.items()):
            is_shown = pair in shown
            if began <= history.order and not is_shown:
                continue
            is_absent = not is_shown and shows_absence(*pair)
            if history.unanswered and began > history.unanswered and (is_shown or is_absent):
                history.quiet_since = at if history.quiet_since is None else history.quiet_since
                history.quiet_last = at
            if not is_absent:
                continue
            if history.absent_since is None:
                history.absent_since = at
            history.absent_last = at
            if at - history.absent_since >= settle_seconds and self._watched_for(settle_seconds):
                # As one that was never heard of: absent since the first inventory.
                del self._pairs[pair]

    def _seen(self, pair: Pair, order: int) -> None:
        known = self._pairs.get(pair, _History(order))
        self._pairs[pair] = replace(known, order=order, pending=False, was_there=True, absent_since=None)

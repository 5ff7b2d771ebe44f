"""What was wrong a moment ago, with metrics and with pods. In the leader's memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from weft.balancing.replicas import Replica
from weft.balancing.state import Hold

SECONDS_LEAST, SCRAPES_LEAST = 10.0, 2.0
"""For so long, and so many scrapes, has a target to be right before it counts as right again."""


UNTOLD_SECONDS = 60.0
"""For so long does a group without replicas sleep on although nothing tells whether a request waits for it."""
GONE_SECONDS = 60.0
"""A replica that was not seen for so long is another one when its name is seen again."""


class Asked:
    """Whether a request waits for one group, as it was told last. In the leader's memory."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._last: bool | None = None

    def of(self, asked: bool | None, boot: float) -> tuple[bool | None, bool]:
        """What is told or was told last, None where nothing was; and whether nothing has told it for a while."""
        if asked is not None:
            self._since, self._last = None, asked
            return asked, False
        self._since = boot if self._since is None else self._since
        return self._last, boot - self._since >= UNTOLD_SECONDS


class Ended:
    """How often the pod of each replica has ended by itself since it last ran. A new leader begins anew."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Replica, str, float]] = {}
        """By replica: its name and role with how many of its pods ended and why, the last one, and the boot time when
        it was seen last."""

    def told(self, replicas: Iterable[Replica], boot: float) -> tuple[Replica, ...]:
        """The replicas, with what is known of the ends of their pods."""
        found = []
        for one in replicas:
            before, last, _ = self._known.pop(one.name, (one, "", 0.0))
            count, said = before.pods_ended, before.ended_for
            if one.pod_finished:
                count, last, said = count + (last != one.pod_uid), one.pod_uid, one.waits_for
            if count and not one.containers_ready:
                one = replace(one, pods_ended=count, ended_for=said)
                self._known[one.name] = (
                    Replica(one.name, one.role, pods_ended=count, ended_for=said),
                    last,
                    boot,
                )
            found.append(one)
        self._known = {name: known for name, known in self._known.items() if boot - known[2] < GONE_SECONDS}
        return tuple(found)

    def between(self, replicas: Iterable[Replica]) -> tuple[Replica, ...]:
        """Replicas that are not there, since their pod has just ended and is made anew."""
        names = {one.name for one in replicas}
        return tuple(one for name, (one, _, _) in self._known.items() if name not in names)


class Memory:
    """What was wrong with one group's metrics: trust comes back later than it goes, so that nothing flickers. A new
    leader trusts what it reads."""

    def __init__(self) -> None:
        self._wrong: dict[str, tuple[Hold, float]] = {}
        """By subject: what was wrong, and the boot time when it was seen last."""

    def of(self, subject: str, wrong: Hold | None, boot: float, scrape_seconds: float) -> Hold | None:
        """What is wrong with the subject, or was until just now."""
        known = self._wrong.get(subject)
        if wrong is None:
            if known is None or boot - known[1] >= max(SECONDS_LEAST, SCRAPES_LEAST * scrape_seconds):
                self._wrong.pop(subject, None)
                return None
            return known[0]
        # As long as it goes on it is said as it was first said.
        said = known[0] if known is not None and known[0].reason == wrong.reason else wrong
        self._wrong[subject] = (said, boot)
        return said

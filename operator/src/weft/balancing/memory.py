"""What was wrong with metrics a moment ago: trust comes back later than it goes, so that nothing flickers."""

from __future__ import annotations

from weft.balancing.state import Hold

SECONDS_LEAST, SCRAPES_LEAST = 10.0, 2.0
"""For so long, and so many scrapes, has a target to be right before it counts as right again."""


UNTOLD_SECONDS = 60.0
"""For so long does a group without replicas sleep on although nothing tells whether a request waits for it."""


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


class Memory:
    """Of one group, in the leader's memory: a new leader trusts what it reads."""

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

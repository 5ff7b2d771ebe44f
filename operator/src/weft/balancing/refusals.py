"""What the API server refused, and when it is asked again. Pure.

A refusal has many causes that go away without anybody's edit of the group: a quota that is freed, a policy that
is removed, a webhook that is mended. So what was refused is tried again whatever the generation, at intervals that
double; an edit of the group or the role is tried at once. Kept in memory: an operator that was restarted asks once
more, that is all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from weft.balancing.state import Finding
from weft.balancing.steps import CheckTemplate, CreateNode, CreatePod, Step, Subject
from weft.cluster import ClusterError, InvalidError

FIRST_DELAY_SECONDS = 2.0
LONGEST_DELAY_SECONDS = 120.0

Version = tuple[int, int]
"""Generations of the group and of the role that a step was made from."""


@dataclass(frozen=True)
class Refusal:
    """The last refusal of steps about one subject."""

    finding: Finding
    """For a condition, with the server's words."""
    version: Version
    tries: int
    """How many times in a row."""
    retry_at: float
    """By the boot clock."""

    def holds(self, version: Version, boot: float) -> bool:
        """Whether it is too early to ask again."""
        return version == self.version and boot < self.retry_at


def refusal(
    step: Step | Subject, error: ClusterError, before: Refusal | None, version: Version, boot: float
) -> Refusal:
    """The refusal of a step (or of a status, named by its subject) just now.

    `before` is that of the last try, if that was refused, too. Words that differ in numbers only (a quota's use) are
    the same words: a condition is not written again for them.
    """
    tries = 1 if before is None or before.version != version else before.tries + 1
    delay = max(
        min(FIRST_DELAY_SECONDS * 2.0 ** (tries - 1), LONGEST_DELAY_SECONDS), error.retry_after_seconds
    )
    finding = _finding(step, error)
    if before is not None and _without_numbers(before.finding) == _without_numbers(finding):
        finding = before.finding
    return Refusal(finding, version, tries, boot + delay)


def _finding(step: Step | Subject, error: ClusterError) -> Finding:
    words = error.message or f"{error.status} {error.reason}"
    # A webhook that is down or too many requests are nobody's decision.
    does = "does not take" if error.status in (404, 429) or error.status >= 500 else "refuses"
    match step:
        case CreatePod() | CheckTemplate():
            reason = "TemplateInvalid" if isinstance(error, InvalidError) else "PodRefused"
            return Finding(False, reason, f"the API server {does} the pod made from the template: {words}")
        case CreateNode():
            return Finding(False, "NodeRefused", f"the API server {does} the logical node: {words}")
        case Subject():
            return Finding(False, "WriteRefused", f"the API server {does} this status: {words}")
        case _:
            return Finding(False, "WriteRefused", f"the API server {does} {type(step).__name__}: {words}")


def _without_numbers(finding: Finding) -> tuple[str, str]:
    return finding.reason, re.sub(r"[0-9]+", "", finding.message)

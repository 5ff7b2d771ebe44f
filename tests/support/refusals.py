"""A cluster that says no, in the API server's words: rules for `MemoryCluster.rules`.

A rule sees every write, those of a dry run included, and may refuse it. Take a rule off the list again and the same
write succeeds: nothing about the object has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from weft.api.resources import PODS, ResourceType
from weft.cluster import ClusterError, InvalidError, Object


@dataclass(frozen=True)
class Write:
    """One write that is about to happen."""

    verb: str
    """`create`, `patch`, `patch status`, `status` or `delete`."""
    resource: ResourceType
    namespace: str
    name: str
    body: Mapping[str, Any]
    """What is created, or the patch, or the new status; empty for a deletion."""
    dry_run: bool = False


Rule = Callable[[Write], ClusterError | None]


class AnswerLost(ClusterError):
    """The write takes effect, and its answer never arrives."""

    def __init__(self, write: Write) -> None:
        super().__init__(0, "NoAnswer", f"{write.verb} {write.resource.plural}/{write.name}: timed out")


class Quota:
    """A ResourceQuota: so many objects of one resource in a namespace. Its words hold numbers that move."""

    def __init__(
        self, listed: Callable[[ResourceType, str], list[Object]], resource: ResourceType, hard: int
    ) -> None:
        self._listed = listed
        self._resource = resource
        self.hard = hard

    def __call__(self, write: Write) -> ClusterError | None:
        if write.verb != "create" or write.resource != self._resource:
            return None
        used, name = len(self._listed(self._resource, write.namespace)), write.resource.plural
        if used < self.hard:
            return None
        amounts = f"requested: {name}=1, used: {name}={used}, limited: {name}={self.hard}"
        return forbidden(write, f"exceeded quota: team, {amounts}")


def pod_security(write: Write) -> ClusterError | None:
    """Pod Security admission with `restricted` enforced: refuses a pod whose containers may gain privileges."""
    if write.verb != "create" or write.resource != PODS:
        return None
    open_ones = [
        container["name"]
        for container in write.body["spec"]["containers"]
        if (container.get("securityContext") or {}).get("allowPrivilegeEscalation") is not False
    ]
    if not open_ones:
        return None
    which = " and ".join(f'"{name}"' for name in open_ones)
    return forbidden(
        write,
        'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false '
        f"(container {which} must set securityContext.allowPrivilegeEscalation=false)",
    )


@dataclass
class Policy:
    """A ValidatingAdmissionPolicy on creates and patches of one resource."""

    resource: ResourceType
    denies: Callable[[Write], str | None]
    """Says why a write is denied."""

    def __call__(self, write: Write) -> ClusterError | None:
        if write.resource != self.resource or write.verb not in ("create", "patch"):
            return None
        if not (why := self.denies(write)):
            return None
        text = f"ValidatingAdmissionPolicy 'house-rules' with binding 'house-rules' denied request: {why}"
        return InvalidError(422, "Invalid", f'{write.resource.plural} "{write.name}" is forbidden: {text}')


@dataclass
class BrokenWebhook:
    """A webhook for one resource whose Service has no endpoints, with `failurePolicy: Fail`."""

    resource: ResourceType

    def __call__(self, write: Write) -> ClusterError | None:
        if write.resource != self.resource or write.verb not in ("create", "patch"):
            return None
        call = 'Post "https://checks.team.svc:443/admit?timeout=10s"'
        why = f'failed calling webhook "checks.team.example": failed to call webhook: {call}: '
        return ClusterError(
            500, "InternalError", f"Internal error occurred: {why}no endpoints available for service"
        )


@dataclass
class TooManyRequests:
    """The API server sheds load: the next `times` writes are refused, each with a Retry-After."""

    times: int
    retry_after_seconds: float = 1.0

    def __call__(self, write: Write) -> ClusterError | None:
        if self.times <= 0:
            return None
        self.times -= 1
        text = "the server has received too many requests and has asked us to try again later"
        return ClusterError(429, "TooManyRequests", text, self.retry_after_seconds)


@dataclass
class LostAnswers:
    """The next `times` writes that `match` take effect, and nobody hears of it."""

    times: int
    match: Callable[[Write], bool] = lambda write: True

    def __call__(self, write: Write) -> ClusterError | None:
        if self.times <= 0 or write.dry_run or not self.match(write):
            return None
        self.times -= 1
        return AnswerLost(write)


def forbidden(write: Write, why: str) -> ClusterError:
    """403, as RBAC and admission say it."""
    return ClusterError(403, "Forbidden", f'{write.resource.plural} "{write.name}" is forbidden: {why}')

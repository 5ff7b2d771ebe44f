"""What an answer of a Redfish manager means: status and extended information to Weft's errors.

Source: DMTF DSP0266 (status codes, error responses, tasks) and the registries Base and Composition (DSP8011).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote

from weft.fabric.driver import Operation, OperationPhase
from weft.fabric.errors import (
    AuthFailed,
    Busy,
    CapacityExhausted,
    Conflict,
    DeviceFault,
    FabricError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Transient,
    Unsupported,
)

Json = Mapping[str, Any]

DEFAULT_RETRY_AFTER_SECONDS = 5.0
MAX_RETRY_AFTER_SECONDS = 600.0
_MAX_TEXT = 300


@dataclass(frozen=True)
class Reply:
    """One answer: status, body (empty unless a JSON object) and the headers that matter."""

    path: str
    status: int
    body: Json
    etag: str = ""
    location: str = ""
    retry_after_seconds: float | None = None
    token: str = ""
    challenge: str = ""
    """What a 401 asks for (WWW-Authenticate)."""


@dataclass(frozen=True)
class Message:
    """One entry of `@Message.ExtendedInfo`."""

    name: str
    """The MessageId without registry and version: `ResourceInUse`."""
    text: str
    severity: str
    args: tuple[str, ...]
    related: tuple[str, ...] = ()
    """JSON pointers into the request: `#/Links/ResourceBlocks/3`."""


class Precondition(Conflict):
    """The condition of a change is not met, or missing: the resource has changed, or its ETag is of no use."""


# MessageIds that say more than the status they come with.
_BY_MESSAGE: dict[str, type[FabricError]] = {
    "ResourceInUse": Conflict,
    "ResourceBlockInUse": Conflict,
    "ResourceAlreadyExists": Conflict,
    "SpecifiedResourceAlreadyReserved": Conflict,
    "ConstrainedResourceAlreadyReserved": Conflict,
    "PreconditionFailed": Precondition,
    "PreconditionRequired": Precondition,
    # The zones are not as the plan assumed.
    "IncompatibleZone": Conflict,
    "ResourceExhaustion": CapacityExhausted,
    "CreateLimitReachedForResource": CapacityExhausted,
    "InsufficientStorage": CapacityExhausted,
    "NoResourceMatch": CapacityExhausted,
    "ResourceInStandby": Busy,
    "ServiceTemporarilyUnavailable": Busy,
    "SessionLimitExceeded": Busy,
    "ResourceMissingAtURI": NotFound,
    "ResourceNotFound": NotFound,
    "ResourceBlockNotFound": NotFound,
    "NoValidSession": AuthFailed,
    "InsufficientPrivilege": AuthFailed,
    "ResourceAtUriUnauthorized": AuthFailed,
    "ResourceCreationConflict": Conflict,
    # What is asked for cannot be done here, whoever asks.
    "PropertyNotWritable": Unsupported,
    "ActionNotSupported": Unsupported,
    "OperationNotAllowed": Unsupported,
    "ResourceCannotBeDeleted": Unsupported,
}

# Messages about a component that is out of order; they count only where they name a device.
_DEVICE_FAULTS = frozenset(
    {
        "UndeterminedFault",
        "ResourceErrorsDetected",
        "ResourceErrorThresholdExceeded",
        "ResourceStatusChangedCritical",
        "DriveFailure",
        "DriveOffline",
    }
)


def text_of(value: object) -> str:
    """Text of a manager, fit for a condition: one line, printable, bounded."""
    line = "".join(c if c.isprintable() else " " for c in str(value)[: 2 * _MAX_TEXT])
    return line[:_MAX_TEXT].strip()


def mapping_at(body: object, *keys: str) -> Json:
    """The object at a path of properties; empty when there is none."""
    for key in keys:
        body = body.get(key) if isinstance(body, Mapping) else None
    return body if isinstance(body, Mapping) else {}


def list_at(body: object, *keys: str) -> Sequence[Any] | None:
    """The array at a path of properties; None when there is none."""
    value = mapping_at(body, *keys[:-1]).get(keys[-1])
    return value if isinstance(value, list) else None


def messages_of(body: Json) -> tuple[Message, ...]:
    """The messages of an error response, of an annotated resource, or of a Task."""
    found: list[Message] = []
    error = mapping_at(body, "error")
    for entries in (
        list_at(error, "@Message.ExtendedInfo"),
        list_at(body, "@Message.ExtendedInfo"),
        list_at(body, "Messages"),
    ):
        found += [_message(entry) for entry in entries or () if isinstance(entry, Mapping)]
    if error and not found:
        found.append(_message({"MessageId": error.get("code"), "Message": error.get("message")}))
    return tuple(found)


def _message(entry: Json) -> Message:
    args = entry.get("MessageArgs")
    related = entry.get("RelatedProperties")
    return Message(
        name=str(entry.get("MessageId") or "").rpartition(".")[2],
        text=text_of(entry.get("Message") or entry.get("MessageId") or ""),
        severity=str(entry.get("MessageSeverity") or entry.get("Severity") or ""),
        args=tuple(str(a) for a in args) if isinstance(args, list) else (),
        related=tuple(str(r) for r in related) if isinstance(related, list) else (),
    )


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """The pause that a Retry-After header (seconds or an HTTP date) asks for, bounded; None: unreadable."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    if not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def error_of(reply: Reply, *, write: bool) -> FabricError | None:
    """The error that an answer stands for, or None.

    A 2xx answer with an error in its body is believed in neither direction: OutcomeUnknown for a write.
    """
    messages = messages_of(reply.body)
    text = text_of("; ".join(m.text for m in messages if m.text)) or f"HTTP status {reply.status}"
    where = f"{reply.path}: {text}"
    if 200 <= reply.status < 300:
        bad = "error" in reply.body or (write and any(_is_bad(m) for m in messages))
        if not bad:
            return None
        if write:
            return OutcomeUnknown(f"{where} (in an answer with status {reply.status})")
        return _by_message(messages, where) or Transient(where)
    return _by_status(reply, messages, where, write=write)


def _by_status(reply: Reply, messages: Sequence[Message], where: str, *, write: bool) -> FabricError:
    pause = reply.retry_after_seconds
    match reply.status:
        case 401 | 403:
            # Some managers forbid what they cannot do: other credentials would not help.
            refusal = _by_message(messages, where) if reply.status == 403 else None
            return refusal if isinstance(refusal, Unsupported) else AuthFailed(where)
        case 404 | 410:
            return NotFound(where)
        case 412 | 428:
            return Precondition(where)
        case 409:
            # CapacityExhausted and DeviceFault also come as 409.
            return _by_message(messages, where) or Conflict(where)
        case 405 | 406 | 501:
            return Unsupported(where)
        case 423:
            return Busy(where)
        case 429:
            return RateLimited(where, DEFAULT_RETRY_AFTER_SECONDS if pause is None else pause)
        case 503 if pause is not None and not write:
            return RateLimited(where, pause)
        case 507:
            return CapacityExhausted(where)
        case status if 300 <= status < 400:
            return InvalidRequest(
                f"{where}: redirected to {text_of(reply.location)!r}; set the Fabric's endpoint to it"
            )
        case status if 400 <= status < 500 and status != 408:
            return _by_message(messages, where) or InvalidRequest(where)
    # The change may have been made before the failure, or behind who says that he is too busy for it.
    return OutcomeUnknown(where, pause or 0.0) if write else Transient(where)


def _is_bad(message: Message) -> bool:
    return message.severity in ("Warning", "Critical")


def _by_message(messages: Sequence[Message], where: str) -> FabricError | None:
    for message in messages:
        if message.name in _DEVICE_FAULTS and (devices := devices_in(message.args)):
            return DeviceFault(where, devices[0])
    for message in messages:
        if kind := _BY_MESSAGE.get(message.name):
            return kind(where)
    return None


def devices_in(args: Sequence[str]) -> tuple[str, ...]:
    """The Ids of the resource blocks whose URIs are among the arguments of a message."""
    found = []
    for arg in args:
        _, marker, rest = arg.partition("/ResourceBlocks/")
        if marker and (name := rest.partition("/")[0].partition("?")[0]):
            found.append(unquote(name))
    return tuple(found)


_PHASES = {
    "New": OperationPhase.PENDING,
    "Pending": OperationPhase.PENDING,
    "Starting": OperationPhase.RUNNING,
    "Running": OperationPhase.RUNNING,
    "Suspended": OperationPhase.RUNNING,
    "Interrupted": OperationPhase.RUNNING,
    "Service": OperationPhase.RUNNING,
    "Stopping": OperationPhase.RUNNING,
    "Cancelling": OperationPhase.RUNNING,
    "Completed": OperationPhase.SUCCEEDED,
    "Exception": OperationPhase.FAILED,
    "Killed": OperationPhase.CANCELLED,
    "Cancelled": OperationPhase.CANCELLED,
}


def operation_of_task(task: Json, id: str) -> Operation:
    """The operation that a Task resource describes."""
    phase = _PHASES.get(str(task.get("TaskState")), OperationPhase.UNKNOWN)
    if phase is OperationPhase.SUCCEEDED and task.get("TaskStatus") == "Critical":
        phase = OperationPhase.FAILED
    messages = messages_of(task)
    failed: dict[str, str] = {}
    if phase is OperationPhase.FAILED:
        asked = requested_blocks(task)
        for message in filter(_is_bad, messages):
            named = [asked[n] for n in _positions(message.related) if n < len(asked)]
            failed |= dict.fromkeys(devices_in((*message.args, *named)), message.text)
    text = text_of("; ".join(m.text for m in messages if m.text))
    return Operation(id=id, phase=phase, message=text, failed=failed)


_POSITION = re.compile(r"/Links/ResourceBlocks/(\d{1,5})(?:/|$)")


def _positions(pointers: Sequence[str]) -> list[int]:
    return [int(m[1]) for p in pointers if (m := _POSITION.search(p))]


def requested_blocks(task: Json) -> list[str]:
    """The block URIs in the request that a Task keeps in its Payload; empty when it keeps none."""
    try:
        body = json.loads(str(mapping_at(task, "Payload").get("JsonBody", "")))
    except (ValueError, RecursionError):
        return []
    entries = list_at(body, "Links", "ResourceBlocks") or ()
    return [str(mapping_at(entry).get("@odata.id", "")) for entry in entries]

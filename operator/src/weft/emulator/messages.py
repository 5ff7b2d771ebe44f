"""Redfish messages: ids of DMTF's Base registry, and the error body that carries them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

REGISTRY = "Base.1.18"

_TEXTS = {
    # id: (text, severity, resolution)
    "Success": ("The request was carried out.", "OK", "None."),
    "GeneralError": ("The request failed.", "Critical", "See the extended information."),
    "InternalError": (
        "The service failed while it worked on the request.",
        "Critical",
        "Repeat the request.",
    ),
    "MalformedJSON": ("The body is not valid JSON.", "Critical", "Correct the body."),
    "PropertyMissing": ("The body lacks the property {0}.", "Warning", "Add the property."),
    "PropertyUnknown": ("The property {0} is not known.", "Warning", "Remove the property."),
    "PropertyNotWritable": ("The property {0} cannot be written.", "Warning", "Remove the property."),
    "PropertyValueTypeError": ("{0} has the wrong type for {1}.", "Warning", "Correct the value."),
    "PropertyValueNotInList": ("{0} is not an acceptable value for {1}.", "Warning", "Choose another value."),
    "ActionParameterMissing": ("The action {0} lacks the parameter {1}.", "Critical", "Add the parameter."),
    "ActionParameterUnknown": ("{1} is no parameter of {0}.", "Warning", "Remove the parameter."),
    "ActionParameterValueNotInList": (
        "{0} is not an acceptable value for {1} of {2}.",
        "Warning",
        "Choose another value.",
    ),
    "PropertyValueIncorrect": ("{1} cannot be the value of {0} here.", "Warning", "Correct the value."),
    "PropertyValueConflict": ("{0} does not go with the value of {1}.", "Warning", "Correct one of them."),
    "ResourceAlreadyExists": ("A {0} whose {1} is {2} exists.", "Critical", "Use it, or choose another."),
    "QueryNotSupported": ("This query parameter is not supported.", "Warning", "Remove the query parameter."),
    "QueryParameterValueFormatError": (
        "{0} has the wrong format for {1}.",
        "Warning",
        "Correct the parameter.",
    ),
    "ResourceMissingAtURI": ("There is no resource at {0}.", "Critical", "Correct the URI."),
    "ResourceAtUriUnauthorized": ("No access to {0}: {1}.", "Critical", "Log in."),
    "ResourceInUse": ("The resource is in use.", "Warning", "Release it first, or choose another."),
    "OperationNotAllowed": ("The method is not allowed here.", "Critical", "See the Allow header."),
    "PreconditionFailed": ("The ETag is not the current one.", "Critical", "Read the resource again."),
    "PreconditionRequired": (
        "The ETag among the parameters is not the current one.",
        "Critical",
        "Read the resource again.",
    ),
    "ResourceExhaustion": ("{0} has no room for it.", "Critical", "Free some, or ask for less."),
    "OperationFailed": ("A step of the operation failed.", "Warning", "Read what was done, then repeat."),
    "ServiceTemporarilyUnavailable": ("Unavailable for {0} seconds.", "Critical", "Repeat after the pause."),
}


def message(key: str, *args: str, properties: tuple[str, ...] = (), hint: str = "") -> dict[str, Any]:
    """One message; `properties` are JSON pointers into the request's body, `hint` says what to do instead."""
    text, severity, resolution = _TEXTS[key]
    body: dict[str, Any] = {
        "@odata.type": "#Message.v1_2_0.Message",
        "MessageId": f"{REGISTRY}.{key}",
        "Message": text.format(*args),
        "MessageArgs": list(args),
        "MessageSeverity": severity,
        "Resolution": hint or resolution,
    }
    if properties:
        body["RelatedProperties"] = list(properties)
    return body


def error_body(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The body of every error answer."""
    code = messages[0]["MessageId"] if len(messages) == 1 else f"{REGISTRY}.GeneralError"
    text = messages[0]["Message"] if len(messages) == 1 else "Several errors: see the extended information."
    return {"error": {"code": code, "message": text, "@Message.ExtendedInfo": messages}}


@dataclass(frozen=True)
class Reply:
    """An answer to a request, before it is HTTP."""

    status: int
    body: dict[str, Any] | bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    """Close the connection instead of answering."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages of an error body."""
        if not isinstance(self.body, dict):
            return []
        found: list[dict[str, Any]] = self.body.get("error", {}).get("@Message.ExtendedInfo", [])
        return found


def refusal(status: int, *messages: dict[str, Any], headers: dict[str, str] | None = None) -> Reply:
    """An error answer."""
    return Reply(status, error_body(list(messages)), headers or {})

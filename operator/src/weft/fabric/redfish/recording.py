"""What a manager answered, as `{path: body}`: to be attached to a bug report, and to be replayed by tests.

A path has its query where it was asked with one. An answer that is no success is `{"STATUS": 500}` (0: there was none),
a redirect has its "Location" too.
"""

from __future__ import annotations

import re
from typing import Any

from weft.fabric.redfish.mapping import Json, Reply

REDACTED = "redacted"
_SECRET = re.compile(
    r"password|secret|token|serialnumber|uuid|durablename|assettag|username|email|hostname|fqdn|macaddress"
    r"|ipv4|ipv6|address|license|certificate|contact|postal|latitude|longitude",
    re.IGNORECASE,
)
_OTHER_NAME = re.compile(r"https?://[^/\"\s]+(?=/redfish)", re.IGNORECASE)


class Recording:
    """Collects the answers of one manager; of each path the last one."""

    def __init__(self) -> None:
        self.bodies: dict[str, Any] = {}
        self.requests = 0
        self.failed = 0

    def heard(self, method: str, path: str, reply: Reply | None) -> None:
        """Take note of a request. Only what was read is kept: a login is not."""
        self.requests += 1
        good = reply is not None and reply.status < 400
        self.failed += not good
        if method != "GET":
            return
        if reply is None:
            self.bodies[path] = {"STATUS": 0}
        elif 200 <= reply.status < 300:
            self.bodies[path] = redacted(reply.body)
        else:
            moved = {"Location": _without_name(reply.location)} if reply.location else {}
            self.bodies[path] = {"STATUS": reply.status, **moved}


def redacted(body: Json) -> dict[str, Any]:
    """The resource without what tells whose machine it is: serial numbers, addresses, users. Ids and links stay."""
    return {key: _redacted_value(key, value) for key, value in body.items()}


def _redacted_value(key: str, value: Any) -> Any:
    if _SECRET.search(key) and not key.startswith("@"):
        return _emptied(value)
    if isinstance(value, dict):
        return redacted(value)
    if isinstance(value, list):
        return [_redacted_value(key, entry) for entry in value]
    return _without_name(value) if isinstance(value, str) else value


def _emptied(value: Any) -> Any:
    """A value of the same type that says nothing."""
    if isinstance(value, dict):
        # A link is needed to go on, whatever it leads to.
        return {k: v if k == "@odata.id" else _emptied(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_emptied(entry) for entry in value]
    return REDACTED if isinstance(value, str) and value else value


def _without_name(text: str) -> str:
    """The text with an invented name in the place of the manager's."""
    return _OTHER_NAME.sub("https://manager.invalid", text)

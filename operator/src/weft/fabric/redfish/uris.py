"""Which links of a manager may be followed.

A manager's answers are not trusted to choose where the next request goes: every link has to stay at the
endpoint's origin and below `/redfish/`, so that neither a mistake nor an attacker can point the operator (and
its session token) at another address.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit

from weft.fabric.errors import InvalidRequest, Transient

SERVICE_ROOT = "/redfish/v1/"
_MAX_LINK_CHARACTERS = 2048
_PLAIN = re.compile(r"[!-\[\]-~]+")  # printable ASCII without space and backslash
_DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]
"""Scheme, host in lower case, port."""


def origin_of(endpoint: str) -> Origin:
    """The origin of an endpoint such as `https://fm.rack-a:8443`.

    Raises InvalidRequest when the endpoint is not such a URL: its path may only be empty or that of the
    service root, and credentials do not belong into it.
    """
    hint = f"endpoint {endpoint!r} must look like https://host:port"
    if not _PLAIN.fullmatch(endpoint):
        raise InvalidRequest(hint)
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidRequest(hint) from None
    if parts.scheme not in _DEFAULT_PORTS or not host or parts.username is not None:
        raise InvalidRequest(hint)
    if parts.path.rstrip("/") not in ("", "/redfish", "/redfish/v1") or parts.query or parts.fragment:
        raise InvalidRequest(hint)
    return parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme]


def base_url(origin: Origin) -> str:
    """The origin as a URL without a path."""
    scheme, host, port = origin
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def local_path(origin: Origin, link: object) -> str:
    """The path and query of a link that a manager gave, absolute or relative to the origin.

    Raises Transient when the link must not be followed: it leaves the origin or `/redfish/`, or contains dot
    segments, an encoded slash, a backslash, white space or a fragment.
    """
    if not isinstance(link, str) or len(link) > _MAX_LINK_CHARACTERS or not _PLAIN.fullmatch(link):
        raise Transient(f"the manager gave an unusable link: {str(link)[:80]!r}")
    try:
        parts = urlsplit(link)
        port = parts.port
    except ValueError:
        raise Transient(f"the manager gave an unusable link: {link[:80]!r}") from None
    if parts.scheme or parts.netloc:
        target = (parts.scheme, parts.hostname or "", port or _DEFAULT_PORTS.get(parts.scheme, 0))
        if target != origin or parts.username is not None:
            raise Transient(f"the manager gave a link that leaves it: {link[:80]!r}")
    segments = [unquote(segment) for segment in parts.path.split("/")]
    unsafe = any(
        segment in (".", "..") or "/" in segment or "\\" in segment or not segment.isprintable()
        for segment in segments
    )
    if unsafe or parts.fragment or not parts.path.startswith("/redfish/"):
        raise Transient(f"the manager gave a link outside its Redfish service: {link[:80]!r}")
    return parts.path + (f"?{parts.query}" if parts.query else "")


def canonical(path: str) -> str:
    """The path in the form in which resources are compared: without query and trailing slash."""
    return path.partition("?")[0].rstrip("/")


def last_segment(path: str) -> str:
    """The name of a member below its collection; by the specification it is the member's `Id`."""
    return unquote(canonical(path).rpartition("/")[2])


def member_path(collection: str, name: str) -> str:
    """Where the member of that name is expected."""
    return f"{canonical(collection)}/{quote(name, safe='')}"

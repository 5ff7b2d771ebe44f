"""Which links of a manager may be followed.

A manager's answers are not trusted to choose where the next request goes: every link has to stay at the
endpoint's origin and below `/redfish/`, so that neither a mistake nor an attacker can point the operator (and
its session token) at another address.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin, urlsplit

from weft.fabric.errors import InvalidRequest, Transient

SERVICE_ROOT = "/redfish/v1/"
_MAX_LINK_CHARACTERS = 2048
_PLAIN = re.compile(r"[!-\[\]-~]+")  # printable ASCII without space and backslash
_USUAL = re.compile(r"/redfish(?:/[-A-Za-z0-9_~][-A-Za-z0-9._~]*)+/?")
"""Links in which there is nothing to judge or to encode: no origin, no query, no segment that begins with a dot."""
_NOTHING_TO_QUOTE = re.compile(r"[-A-Za-z0-9._~/]*")
_SAFE = "!$&'()*+,;=:@"
"""What RFC 3986 lets stand in a segment of a path beside letters, digits and `-._~`."""
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


def local_path(origin: Origin, link: object, base: str = "") -> str:
    """The path and query of a link that a manager gave, ready to be sent: characters are encoded where they must be.

    Links are absolute, or relative to the origin, or (pages only) to the path `base`. Raises Transient when the link
    must not be followed: it leaves the origin or `/redfish/`, contains dot segments, encoded ones too, a backslash,
    control characters or a fragment.
    """
    if not isinstance(link, str) or not 0 < len(link) <= _MAX_LINK_CHARACTERS:
        raise Transient(f"the manager gave an unusable link: {str(link)[:80]!r}")
    if _USUAL.fullmatch(link):
        return link
    try:
        parts = urlsplit(urljoin(base, link) if base else link)
        port = parts.port
    except ValueError:
        raise Transient(f"the manager gave an unusable link: {link[:80]!r}") from None
    # urlsplit drops line breaks and tabs; what it dropped is no part of a link.
    if "\\" in link or not link.isprintable() or parts.fragment or "#" in link:
        raise Transient(f"the manager gave an unusable link: {link[:80]!r}")
    if parts.scheme or parts.netloc:
        target = (parts.scheme, parts.hostname or "", port or _DEFAULT_PORTS.get(parts.scheme, 0))
        if target != origin or parts.username is not None:
            raise Transient(_leaves(origin, link, target))
    if not parts.path.startswith("/redfish/"):
        raise Transient(f"the manager gave a link outside its Redfish service: {link[:80]!r}")
    path = quoted(parts.path)
    # A slash may be encoded in a name; what is behind it is judged as if it were not.
    decoded = unquote(parts.path, errors="surrogateescape")
    if "\\" in decoded or not decoded.isprintable() or {".", ".."} & set(decoded.split("/")):
        raise Transient(f"the manager gave a link outside its Redfish service: {link[:80]!r}")
    return path + (f"?{quote(parts.query, safe=_SAFE + '/?%')}" if parts.query else "")


def _leaves(origin: Origin, link: str, target: Origin) -> str:
    if target[0] not in _DEFAULT_PORTS or not target[1] or "@" in link:
        return f"the manager gave a link that leaves it: {link[:80]!r}"
    return (
        f"the manager's links lead to {text_of_origin(target)}, and it is asked at {text_of_origin(origin)}: set"
        " spec.endpoint of the Fabric to the name that the manager gives itself, or give the manager this one"
    )


def text_of_origin(origin: Origin) -> str:
    """The origin as people write it: without the port that its scheme implies."""
    scheme, host, port = origin
    name = f"{scheme}://{f'[{host}]' if ':' in host else host}"
    return name if port == _DEFAULT_PORTS.get(scheme) else f"{name}:{port}"


def quoted(path: str) -> str:
    """The path with every character encoded that must be, and no other: two spellings of one path become equal."""
    if _NOTHING_TO_QUOTE.fullmatch(path):
        return path
    return "/".join(quote(unquote_to_bytes(segment), safe=_SAFE) for segment in path.split("/"))


def canonical(path: str) -> str:
    """The path in the form in which resources are compared: without query and trailing slash."""
    return path.partition("?")[0].rstrip("/")


def last_segment(path: str) -> str:
    """The name of a member below its collection; by the specification it is the member's `Id`."""
    return unquote(canonical(path).rpartition("/")[2])


def member_path(collection: str, name: str) -> str:
    """Where the member of that name is expected."""
    return f"{canonical(collection)}/{quote(name, safe=_SAFE)}"


def name_of_path(path: str) -> str:
    """A name that only this resource of the manager has: its path below the service root, for people."""
    return unquote(canonical(path).removeprefix(SERVICE_ROOT))

"""What is said of a manager's errors: to tenants a sentence of ours, to administrators its own words without secrets.

The one place at which an error becomes text that a tenant may read. What a manager says may hold addresses, user names
and whatever else its makers put there.
"""

from __future__ import annotations

import re

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
    PartialFailure,
    RateLimited,
    Unsupported,
)

LONGEST = 500
"""Characters of a manager's words that are kept."""
HIDDEN = "(hidden)"
_IN_URL = re.compile(r"(?<=//)[^/\s@]+@")
# A driver of others may say anything, of any length: no try at one place looks further than a name is long.
_NAMED = re.compile(
    r"""(?ix) ((?:password|passwd|secret|token|authorization|cookie) [\w-]{0,100}+ ["']? \s*+ [:=] \s*+)
    (?: "[^"]*" | '[^']*' | (?:basic|bearer)\s+\S+ | [^\s,;}]+ )"""
)
_SCHEME = re.compile(r"(?i)\b(basic|bearer)\s+[\w.~+/=-]{8,}")

# The more special classes first.
_SENTENCES: tuple[tuple[type[FabricError], str], ...] = (
    (RateLimited, "asks for a pause"),
    (Conflict, "says that the devices or the host are in use otherwise"),
    (CapacityExhausted, "has no slot or capacity left at the host"),
    (NotFound, "does not know the host or a device"),
    (InvalidRequest, "refuses the request as it is"),
    (AuthFailed, "does not accept Weft's credentials"),
    (DeviceFault, "reports a fault of a device"),
    (PartialFailure, "could not attach all of the devices"),
    (OutcomeUnknown, "gave no answer that tells whether the request took effect"),
    (Unsupported, "has no function for this"),
    (FabricError, "cannot carry out the request now"),
)


def for_tenants(error: FabricError, fabric: str) -> str:
    """What went wrong, without a word of the manager's."""
    if isinstance(error, Busy):
        return f"the manager of Fabric {fabric} works on it, or is not to be called at this moment"
    what = next(sentence for kind, sentence in _SENTENCES if isinstance(error, kind))
    return f"the manager of Fabric {fabric} {what}; the Fabric's condition CallsSucceed has its words"


def for_administrators(text: object, secrets: tuple[str, ...] = ()) -> str:
    """A manager's words without what lets one log in: `secrets`, and what looks like one."""
    words = str(text)
    for secret in secrets:
        if secret:
            words = words.replace(secret, HIDDEN)
    words = _IN_URL.sub(f"{HIDDEN}@", words)
    words = _NAMED.sub(rf"\g<1>{HIDDEN}", words)
    words = _SCHEME.sub(rf"\g<1> {HIDDEN}", words)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."

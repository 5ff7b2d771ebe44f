"""Whose work on the fabric is: the mark in the names of what Weft makes there. No I/O.

A name is `weft-` and, where this cluster has a mark, `of-`, the mark and `-` before the rest. Only what is made can
carry one: a connection, a composed system. Blocks and endpoints that are put into lists have no place for it.
"""

from __future__ import annotations

import re

OURS = "weft-"
"""How the names begin that Weft gives."""
_MARKED = re.compile(r"weft-of-([0-9a-f]{12})-")


def prefix(owner: str) -> str:
    """How the names begin of what is made for this owner."""
    return f"{OURS}of-{owner}-" if owner else OURS


def owner_in(name: str) -> str:
    """The owner that a name carries; empty where it carries none."""
    found = _MARKED.match(name)
    return found[1] if found else ""

"""What Weft calls the resources of a manager: by the manager's own Ids, as long as they tell them apart. No I/O."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

from weft.fabric.redfish.uris import name_of_path

MAX_NAME = 256


def is_name(name: str) -> bool:
    """Whether the name of a device or host can be kept in Weft's objects: 1 to 256 characters, all printable."""
    return 0 < len(name) <= MAX_NAME and name.isprintable()


def name_of_uri(uri: str) -> str:
    """A name made of where the resource is, for those whose Id others have, too: `Chassis/A/ResourceBlocks/gpu-0`."""
    name = name_of_path(uri)
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[-(MAX_NAME - 17) :]}~{digest}"


def names_of(ids: Mapping[str, str], earlier: Mapping[str, str]) -> dict[str, str]:
    """Names by URI, for resources with these Ids by URI; no two have the same.

    Where several have one Id, that one keeps it which had it in an `earlier` result; the others are named after their
    URIs. So a name that is in use does not pass to another resource when a second one with its Id turns up.
    """
    count = Counter(ids.values())
    holder = {name: uri for uri, name in earlier.items() if ids.get(uri) == name}
    names: dict[str, str] = {}
    for uri, id in ids.items():
        alone = count[id] == 1
        names[uri] = id if alone or holder.get(id) == uri else name_of_uri(uri)
    # An Id may look like the name that another resource gets from its URI.
    taken = Counter(names.values())
    return {uri: name if taken[name] == 1 else name_of_uri(uri) for uri, name in names.items()}

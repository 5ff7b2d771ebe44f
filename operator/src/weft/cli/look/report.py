"""`weft report`: one archive for a bug report, without what is nobody's business.

What goes in is chosen, not what stays out: of a pod its labels, its Node and its status; of Weft's objects all but
annotations and pod templates. Names of objects, Nodes, hosts and models are in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import yaml

from weft import __version__
from weft.api.resources import GROUP, PODS
from weft.cli.look.reading import Reading
from weft.cluster import Object

KEPT_METADATA = (
    "name",
    "namespace",
    "uid",
    "generation",
    "resourceVersion",
    "labels",
    "finalizers",
    "creationTimestamp",
    "deletionTimestamp",
    "ownerReferences",
)
KEPT_OF_PODS = ("nodeName", "nodeSelector", "readinessGates", "priorityClassName")


def redacted(found: Object) -> Object:
    """An object without what may be secret: annotations but Weft's, and pod templates, of which a hash stays."""
    metadata = {key: found["metadata"][key] for key in KEPT_METADATA if key in found["metadata"]}
    annotations = {
        key: value
        for key, value in found["metadata"].get("annotations", {}).items()
        if key.startswith(f"{GROUP}/")
    }
    kept = {"apiVersion": found.get("apiVersion"), "kind": found.get("kind"), "metadata": metadata}
    if annotations:
        metadata["annotations"] = annotations
    if found.get("kind") == PODS.kind:
        kept["spec"] = {key: found["spec"][key] for key in KEPT_OF_PODS if key in found.get("spec", {})}
        kept["status"] = _without_images(found.get("status", {}))
        return kept
    return {**kept, **{key: _without_templates(found[key]) for key in ("spec", "status") if key in found}}


def _without_templates(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _hash(one) if key == "template" else _without_templates(one) for key, one in value.items()
        }
    if isinstance(value, list):
        return [_without_templates(one) for one in value]
    return value


def _hash(template: Any) -> str:
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]
    return f"removed; equal templates have equal hashes: {digest}"


def _without_images(status: Any) -> Any:
    """A pod's status; the names of images and registries stay out, and so does what a container said when it ended."""
    if isinstance(status, dict):
        hidden = ("image", "imageID", "containerID", "message")
        return {key: _without_images(one) for key, one in status.items() if key not in hidden}
    if isinstance(status, list):
        return [_without_images(one) for one in status]
    return status


def archive(reading: Reading, events: Iterable[Object], overview: str) -> bytes:
    """A .tar.gz with a file for each kind. The same bytes for the same input."""
    files = {
        "status.txt": overview,
        "about.yaml": _yaml(
            {
                "weft": __version__,
                "read": reading.now.isoformat(),
                "notAllowedToList": list(reading.denied),
                "only": reading.narrowed,
                "unreadable": list(reading.unreadable),
            }
        ),
        "events.yaml": _yaml([_event(one) for one in events]),
    }
    for resource, objects in reading.objects.items():
        files[f"{resource.plural}.yaml"] = _yaml([redacted(one) for one in objects])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"weft-report/{name}")
            data = text.encode()
            info.size, info.mtime = len(data), int(reading.now.timestamp())
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def _event(event: Object) -> Object:
    about = event.get("regarding", {})
    names = ("type", "reason", "note", "eventTime", "series", "reportingController")
    return {
        "regarding": {key: about[key] for key in ("kind", "namespace", "name") if key in about},
        **{key: event[key] for key in names if key in event},
    }


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=110)


def file_name(now: datetime) -> str:
    """What the archive is called where nobody says."""
    return f"weft-report-{now:%Y%m%d-%H%M%S}.tar.gz"

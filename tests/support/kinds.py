"""What the API server makes of an object of a kind, and what of it: defaults, schema, what may change how.

Weft's own kinds go by their generated CRDs. Rules (CEL) are not evaluated: tests/integration/test_crds.py holds them
against a real API server. Of Pods and Nodes there is what Weft touches.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from support import structural
from support.core_schema import decoded
from weft.api import crd
from weft.api.resources import GROUP, NODES, PODS, ResourceType
from weft.cluster import InvalidError, Object

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")


def invalid(resource: ResourceType, name: str, why: str) -> InvalidError:
    return InvalidError(422, "Invalid", f'{resource.kind} "{name}" is invalid: {why}')


@functools.cache
def schemas() -> dict[tuple[str, str], structural.Schema]:
    """By group and plural, from the definitions that the models generate."""
    found: dict[tuple[str, str], structural.Schema] = {}
    for text in crd.manifests().values():
        spec = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        schema = spec["versions"][0]["schema"]["openAPIV3Schema"]
        found[spec["group"], spec["names"]["plural"]] = schema
    return found


def taken_in(resource: ResourceType, obj: Object, *, strict: bool) -> Object:
    """The object as decoded: without unknown fields, with defaults.

    Raises InvalidError 400 for an unknown field where `strict`. Only Weft's own kinds lose fields here.
    """
    schema = schemas().get((resource.group, resource.plural))
    if schema is not None:
        unknown: list[str] = []
        rest = {key: value for key, value in obj.items() if key != "metadata"}
        kept = structural.pruned(rest, schema, "", unknown)
        _refuse_unknown(resource, unknown if strict else [])
        return {**structural.defaulted(kept, schema), "metadata": obj["metadata"]}
    if resource not in (PODS, NODES):
        return obj
    kept, unknown, wrong = decoded(resource, obj)
    if wrong:
        text = f"{resource.kind} cannot be handled: json: cannot unmarshal into {', '.join(wrong)}"
        raise InvalidError(400, "BadRequest", text) if strict else InvalidError(422, "Invalid", text)
    _refuse_unknown(resource, unknown if strict else [])
    return _pod_defaults(kept) if resource == PODS else _node_defaults(kept)


def _refuse_unknown(resource: ResourceType, fields: list[str]) -> None:
    if fields:
        said = ", ".join(f'unknown field "{field}"' for field in sorted(fields))
        text = f"{resource.kind} in version {resource.version!r} cannot be handled: strict decoding error: {said}"
        raise InvalidError(400, "BadRequest", text)


def check(resource: ResourceType, obj: Object, before: Object | None) -> None:
    """Raises InvalidError 422 where the object does not fit; what `before` already had wrong may stay."""
    name = obj["metadata"]["name"]
    problems = list(_metadata_problems(obj["metadata"], (before or {}).get("metadata")))
    schema = schemas().get((resource.group, resource.plural))
    if schema is not None:
        rest = {key: value for key, value in obj.items() if key != "metadata"}
        old = (
            {key: value for key, value in (before or {}).items() if key != "metadata"}
            if before
            else structural.NOTHING
        )
        problems += structural.problems(rest, schema, "", old)
    elif resource == PODS:
        problems += _pod_problems(obj, before)
    elif resource == NODES:
        problems += _node_problems(obj, before)
    if problems:
        raise invalid(resource, name, "; ".join(problems))


def bumps_generation(resource: ResourceType, before: Object, after: Object) -> bool:
    """Whether a write of the object itself counts as a new generation of it."""
    if resource.group == GROUP:
        left, right = (
            {key: value for key, value in each.items() if key not in ("metadata", "status")}
            for each in (before, after)
        )
        return left != right
    return resource != NODES and before.get("spec") != after.get("spec")


# Metadata


def _metadata_problems(metadata: Object, before: Object | None) -> Iterator[str]:
    name = metadata["name"]
    if before is None and (not NAME.fullmatch(name) or len(name) > 253):
        yield f"metadata.name: Invalid value: {name!r}: a lowercase RFC 1123 subdomain is needed"
    for key, value in (metadata.get("labels") or {}).items():
        if not LABEL_KEY.fullmatch(key) or len(key.rpartition("/")[2]) > 63:
            yield f"metadata.labels: Invalid value: {key!r}"
        if not isinstance(value, str) or not LABEL.fullmatch(value) or len(value) > 63:
            yield f"metadata.labels: Invalid value: {value!r}"
    for finalizer in metadata.get("finalizers") or ():
        if not LABEL_KEY.fullmatch(finalizer):
            yield f"metadata.finalizers: Invalid value: {finalizer!r}"
    for n, owner in enumerate(metadata.get("ownerReferences") or ()):
        for part in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(part):
                yield f"metadata.ownerReferences[{n}].{part}: Required value"
    if before is not None:
        if metadata.get("uid") != before.get("uid"):
            yield "metadata.uid: Invalid value: field is immutable"
        new = set(metadata.get("finalizers") or ()) - set(before.get("finalizers") or ())
        if before.get("deletionTimestamp") and new:
            yield (
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, "
                f"found new finalizers {sorted(new)}"
            )


# Pods and Nodes

_TOLERATED = [
    {
        "key": f"node.kubernetes.io/{key}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 300,
    }
    for key in ("not-ready", "unreachable")
]


def _pod_defaults(pod: Object) -> Object:
    spec = dict(pod.get("spec") or {})
    for key, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("serviceAccountName", "default"),
        ("securityContext", {}),
        ("schedulerName", "default-scheduler"),
        ("priority", 0),
        ("enableServiceLinks", True),
        ("preemptionPolicy", "PreemptLowerPriority"),
    ):
        spec.setdefault(key, value)
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    tolerations = list(spec.get("tolerations") or ())
    for toleration in _TOLERATED:
        if not any(_tolerates(each, toleration["key"]) for each in tolerations):
            tolerations.append(dict(toleration))
    spec["tolerations"] = tolerations
    for part in ("initContainers", "containers"):
        if isinstance(spec.get(part), list):
            spec[part] = [_container_defaults(each) for each in spec[part]]
    return _with_whole_conditions({**pod, "spec": spec})


def _with_whole_conditions(obj: Object) -> Object:
    """Conditions as they are encoded: type and status are written even where they are empty."""
    status = obj.get("status") or {}
    if "conditions" not in status:
        return obj
    whole = [{"type": "", "status": "", **condition} for condition in status["conditions"] or ()]
    return {**obj, "status": {**status, "conditions": whole}}


def _tolerates(toleration: Mapping[str, Any], key: Any) -> bool:
    if toleration.get("effect", "NoExecute") not in ("", "NoExecute"):
        return False
    return toleration.get("key") == key or (
        not toleration.get("key") and toleration.get("operator") == "Exists"
    )


def _container_defaults(container: Object) -> Object:
    image = container.get("image", "")
    latest = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
    result = {
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always" if latest else "IfNotPresent",
        **container,
    }
    if "ports" in container:
        result["ports"] = [{"protocol": "TCP", **port} for port in container["ports"]]
    return result


def _node_defaults(node: Object) -> Object:
    spec = {key: value for key, value in (node.get("spec") or {}).items() if value not in (None, [], False)}
    status = dict(node.get("status") or {})
    if status.get("capacity"):
        status.setdefault("allocatable", copy.deepcopy(status["capacity"]))
    return _with_whole_conditions({**node, "spec": spec, **({"status": status} if status else {})})


def admitted(resource: ResourceType, obj: Object) -> Object:
    """What admission adds to an object that is created."""
    if resource != NODES:
        return obj
    # Until the node controller has seen it ready; there is none in a test that does not play one.
    taint = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
    taints = obj["spec"].get("taints") or []
    return {**obj, "spec": {**obj["spec"], "taints": [*taints, taint]}}


def _pod_problems(pod: Object, before: Object | None) -> Iterator[str]:
    containers = pod["spec"].get("containers")
    if not containers:
        yield "spec.containers: Required value"
        return
    for n, container in enumerate(containers):
        if not container.get("name"):
            yield f"spec.containers[{n}].name: Required value"
        if not container.get("image"):
            yield f"spec.containers[{n}].image: Required value"
    if len({container.get("name") for container in containers}) < len(containers):
        yield "spec.containers: Duplicate value"
    for n, condition in enumerate((pod.get("status") or {}).get("conditions") or ()):
        if not condition["type"]:
            yield f"status.conditions[{n}].type: Required value"
    if before is not None and _fixed(pod["spec"]) != _fixed(before["spec"]):
        yield "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"


def _fixed(spec: Object) -> Object:
    """The part of a pod's spec that nobody may change."""
    free = {"image"}
    containers = [
        {key: value for key, value in each.items() if key not in free} for each in spec["containers"]
    ]
    return {**spec, "containers": containers}


def _node_problems(node: Object, before: Object | None) -> Iterator[str]:
    seen = set()
    for n, taint in enumerate(node["spec"].get("taints") or ()):
        if not taint.get("key"):
            yield f"metadata.taints[{n}].key: Required value"
        if taint.get("effect") not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            yield f"metadata.taints[{n}].effect: Unsupported value: {taint.get('effect')!r}"
        if not LABEL.fullmatch(taint.get("value", "")) or len(taint.get("value", "")) > 63:
            yield f"metadata.taints[{n}].value: Invalid value: {taint.get('value')!r}"
        identity = (taint.get("key"), taint.get("effect"))
        if identity in seen:
            yield f"metadata.taints[{n}]: Duplicate value: taints must be unique by key and effect pair"
        seen.add(identity)
    old = (before or {}).get("spec", {}).get("providerID")
    if old and node["spec"].get("providerID") != old:
        yield "spec.providerID: Invalid value: field cannot be modified once set"

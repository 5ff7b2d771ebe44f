"""Seeded sequences of operations on Weft's kinds, Pods and Nodes: the same for the same seed and schemas."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from support import kinds, structural
from weft.api.crd import DEFINITIONS
from weft.api.resources import GROUP, NODES, PODS, ResourceType
from weft.cluster import Object

OWN = tuple(definition.resource for definition in DEFINITIONS)
NAMESPACE = "replay"
FINALIZERS = ("weft.dev/fabric", "example.com/other")
WORDS = (
    "a",
    "b-1",
    "A100-80GB",
    "10Gi",
    "1",
    "250m",
    "https://rack.example",
    "llama/7b",
    "weft.dev/x",
    "In-_x",
)
LABELS = ("x", "", "v1.2", "-bad", "b" * 64)


@dataclass(frozen=True)
class Operation:
    """One request. `guard` and `uid` are filled in with what the player has seen of the object."""

    verb: str
    """`create`, `patch`, `patch status`, `status` or `delete`."""
    resource: ResourceType
    name: str
    body: Object = field(default_factory=dict)
    """The object, the patch, or the new status."""
    guard: str = ""
    """`current` or `stale`: the resourceVersion that a patch or a status is guarded by."""
    uid: str = ""
    """`current` or `other`: the uid that a deletion is guarded by."""
    grace_seconds: int | None = None
    dry_run: bool = False

    @property
    def namespace(self) -> str:
        return NAMESPACE if self.resource.namespaced else ""


def sequence(seed: int) -> list[Operation]:
    """Between 5 and 10 operations on one or two objects, most of which are valid."""
    rng = random.Random(seed)
    resource = rng.choice((PODS, NODES, *OWN) if seed % 2 else OWN)
    names = [f"replay-{seed}-{letter}" for letter in ("ab" if rng.random() < 0.3 else "a")]
    verbs: tuple[str, ...] = ("patch",) * 4 + ("delete", "create")
    if _has_status(resource):
        verbs += ("patch status", "patch status", "status", "status")
    return [
        *(_create(rng, resource, name) for name in names),
        *(_operation(rng, rng.choice(verbs), resource, rng.choice(names)) for _ in range(rng.randint(4, 8))),
    ]


def _has_status(resource: ResourceType) -> bool:
    schema = kinds.schemas().get((resource.group, resource.plural))
    return schema is None or "status" in schema["properties"]


def _operation(rng: random.Random, verb: str, resource: ResourceType, name: str) -> Operation:
    guard = rng.choice(("", "", "current", "current", "stale"))
    if verb == "create":
        return _create(rng, resource, name)
    if verb == "delete":
        uid = rng.choice(("", "current", "current", "other"))
        grace = rng.choice((None, None, 0, 5)) if resource == PODS else None
        return Operation(verb, resource, name, uid=uid, grace_seconds=grace)
    if verb == "patch":
        return Operation(verb, resource, name, _patch(rng, resource), guard)
    status = _status(rng, resource)
    if verb == "patch status":
        metadata = {"metadata": {"labels": {"via": "status"}}} if rng.random() < 0.3 else {}
        return Operation(verb, resource, name, {**metadata, "status": status}, guard)
    # A Pod's or Node's whole status is the kubelet's: Weft writes those of its own kinds.
    return Operation(verb, resource, name, status, guard or "current")


def _create(rng: random.Random, resource: ResourceType, name: str) -> Operation:
    metadata: Object = {"name": name}
    if resource.namespaced:
        metadata["namespace"] = NAMESPACE
    if rng.random() < 0.4:
        metadata["finalizers"] = [rng.choice(FINALIZERS)]
    if rng.random() < 0.4:
        metadata["labels"] = {"team": rng.choice(LABELS)}
    if rng.random() < 0.2:
        metadata["annotations"] = {"note": rng.choice(WORDS)}
    body: Object = {"metadata": metadata, "spec": _spec(rng, resource)}
    if _has_status(resource) and rng.random() < 0.2:
        body["status"] = _status(rng, resource)
    return Operation("create", resource, name, body, dry_run=rng.random() < 0.1)


def _spec(rng: random.Random, resource: ResourceType) -> Object:
    if resource == PODS:
        return _pod_spec(rng)
    if resource == NODES:
        return rng.choice(({}, {"taints": _taints(rng)}, {"unschedulable": True}))
    schema = kinds.schemas()[resource.group, resource.plural]["properties"]["spec"]
    made = _value(rng, schema)
    assert isinstance(made, dict)
    return _spoiled(rng, made, schema) if rng.random() < 0.25 else made


def _status(rng: random.Random, resource: ResourceType) -> Object:
    if resource.group == GROUP:
        schema = kinds.schemas()[resource.group, resource.plural]["properties"]["status"]
        made = _value(rng, schema)
        assert isinstance(made, dict)
        return _spoiled(rng, made, schema) if rng.random() < 0.2 else made
    conditions: list[Object] = [
        {"type": kind, "status": rng.choice(("True", "False")), "reason": rng.choice(("A", "B"))}
        for kind in rng.sample(("Ready", "weft.dev/serving", "MemoryPressure"), rng.randint(1, 2))
    ]
    if rng.random() < 0.2:
        conditions.append({"$patch": "delete", "type": "Ready"})
    if rng.random() < 0.1:
        conditions.append({"status": "True"})
    more: Object = {}
    if resource == PODS:
        more = rng.choice(({}, {"phase": "Running"}, {"phase": "Failed"}))
    elif rng.random() < 0.5:
        more = {"allocatable": {"cpu": rng.choice(("4", "8")), "memory": "1Gi"}}
    return {"conditions": conditions, **more}


def _patch(rng: random.Random, resource: ResourceType) -> Object:
    patch: Object = {}
    if rng.random() < 0.4:
        patch["metadata"] = {"labels": {rng.choice(("team", "role")): rng.choice((*LABELS, None))}}
    if rng.random() < 0.35:
        several = rng.sample(FINALIZERS, rng.randint(0, 2))
        patch.setdefault("metadata", {})["finalizers"] = rng.choice((several, several, None))
    if rng.random() < 0.3 and not patch:
        patch["metadata"] = {"annotations": {"note": rng.choice((*WORDS, None))}}
    if _has_status(resource) and rng.random() < 0.1:
        patch["status"] = _status(rng, resource)
    if rng.random() < 0.6 or not patch:
        patch["spec"] = _spec_patch(rng, resource)
    return patch


def _spec_patch(rng: random.Random, resource: ResourceType) -> Object:
    if resource == PODS:
        return rng.choice(
            (
                {"containers": [{"name": "engine", "image": rng.choice(("vllm:1", "vllm:2"))}]},
                {"containers": [{"name": "engine", "env": [{"name": "A", "value": "b"}]}]},
                {"nonsense": True},
                {"containers": [{"image": "nameless:1"}]},
            )
        )
    if resource == NODES:
        return rng.choice(
            (
                {"taints": _taints(rng)},
                {"taints": rng.choice((None, []))},
                {"unschedulable": rng.choice((True, False, None))},
                {"providerID": rng.choice(("x", "y"))},
                {"nonsense": True},
            )
        )
    whole = _spec(rng, resource)
    if not whole:
        return {}
    part = rng.sample(sorted(whole), min(len(whole), rng.randint(1, 2)))
    return {key: None if rng.random() < 0.15 else whole[key] for key in part}


def _taints(rng: random.Random) -> list[Object]:
    effects = ("NoSchedule", "NoSchedule", "NoExecute", "Nope")
    return [
        {"key": rng.choice(("weft.dev/logical-node", "other")), "effect": rng.choice(effects), "value": "a.n"}
        for _ in range(rng.randint(1, 2))
    ]


def _pod_spec(rng: random.Random) -> Object:
    container: Object = {"name": "engine", "image": rng.choice(("vllm:1", "vllm", "host:5000/vllm:latest"))}
    if rng.random() < 0.5:
        container["ports"] = [{"containerPort": 8000}]
    if rng.random() < 0.1:
        container["readynessProbe"] = {"httpGet": {"port": 8000}}
    spec: Object = {"automountServiceAccountToken": False, "containers": [container]}
    if rng.random() < 0.5:
        spec["nodeName"] = "somewhere"
    if rng.random() < 0.5:
        spec["readinessGates"] = [{"conditionType": "weft.dev/serving"}]
    if rng.random() < 0.3:
        spec["tolerations"] = [rng.choice(({"operator": "Exists"}, {"key": "weft.dev/logical-node"}))]
    if rng.random() < 0.2:
        spec["terminationGracePeriodSeconds"] = rng.choice((0, 60))
    if rng.random() < 0.1:
        spec["containers"] = rng.choice(([], [container, container], "none", [{"name": "engine"}]))
    return spec


def _value(rng: random.Random, schema: Mapping[str, Any]) -> Any:
    """Something that fits a structural schema (or nearly: a text that its pattern does not let be is possible)."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if structural.INT_OR_STRING in schema:
        return rng.choice((4, "10Gi"))
    kind = schema["type"]
    if kind == "object":
        return _object(rng, schema)
    if kind == "array":
        low = schema.get("minItems", 0)
        most = min(schema.get("maxItems", 2), max(low, 2))
        return [_value(rng, schema["items"]) for _ in range(rng.randint(low, most))]
    if kind == "boolean":
        return rng.random() < 0.5
    if kind in ("integer", "number"):
        low = schema.get("minimum", 0)
        return rng.randint(low, min(schema.get("maximum", low + 9), low + 9))
    return _text(rng, schema)


def _object(rng: random.Random, schema: Mapping[str, Any]) -> Object:
    if structural.PRESERVE in schema:
        return {"metadata": {"labels": {"app": "engine"}}, "spec": {"containers": [{"name": "engine"}]}}
    if isinstance(values := schema.get("additionalProperties"), Mapping):
        names = rng.sample(("cpu", "memory", "model", "example.com/x"), rng.randint(0, 2))
        return {name: _value(rng, values) for name in names}
    required = schema.get("required", ())
    return {
        name: _value(rng, inner)
        for name, inner in schema.get("properties", {}).items()
        if name in required or rng.random() < 0.4
    }


def _text(rng: random.Random, schema: Mapping[str, Any]) -> str:
    if schema.get("format") == "date-time":
        return rng.choice(("2026-01-01T00:00:00Z", "2026-01-01T01:00:00.5+01:00"))
    fitting = [
        word
        for word in WORDS
        if schema.get("minLength", 0) <= len(word) <= schema.get("maxLength", len(word))
        and re.search(schema.get("pattern", ""), word)
    ]
    return rng.choice(fitting or WORDS)


def _spoiled(rng: random.Random, value: Object, schema: Mapping[str, Any]) -> Object:
    """The value with one thing wrong somewhere in it."""
    spoiled = copy.deepcopy(value)
    places = list(_places(spoiled, schema))
    holder, inner = rng.choice(places)
    known = [key for key in holder if key in inner.get("properties", {})]
    if not known or rng.random() < 0.3:
        holder["nonsense"] = rng.choice((1, "x", {"a": 1}))
        return spoiled
    key = rng.choice(known)
    part = inner["properties"][key]
    wrong: dict[str, tuple[Any, ...]] = {
        "string": (7, "Nonsense~", "z" * 5000, None),
        "integer": ("x", -(10**9), 10**12, None, 1.5),
        "boolean": ("x", None),
        "array": ("x", {"a": 1}, None, holder[key] * 3 if isinstance(holder[key], list) else []),
        "object": ("x", [1], None),
    }
    choices = (*wrong.get(part.get("type", ""), (None, [1])), _MISSING)
    new = rng.choice(choices)
    if new is _MISSING:
        del holder[key]
    else:
        holder[key] = new
    return spoiled


_MISSING = object()


def _places(value: Any, schema: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """Every object in a value whose properties the schema names."""
    if isinstance(value, dict) and "properties" in schema:
        yield value, schema
        for key, item in value.items():
            yield from _places(item, schema["properties"].get(key, {}))
    elif isinstance(value, list):
        for item in value:
            yield from _places(item, schema.get("items", {}))

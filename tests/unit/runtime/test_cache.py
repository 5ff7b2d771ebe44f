from __future__ import annotations

import copy
import json
from typing import Any

from weft.api.resources import INFERENCE_ROLES, LOGICAL_NODES, NODES, PODS
from weft.runtime.cache import ObjectCache
from weft.runtime.lean import MOST_TEXTS, TOO_DEEP, Texts


def obj(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "a", "resourceVersion": str(version)}}


def names(cache: ObjectCache) -> set[str]:
    return {item["metadata"]["name"] for item in cache.list(LOGICAL_NODES)}


def test_an_older_event_does_not_overwrite_our_own_newer_write() -> None:
    cache = ObjectCache()
    cache.put(LOGICAL_NODES, obj("n", 9))
    cache.put(LOGICAL_NODES, obj("n", 7))
    assert cache.get(LOGICAL_NODES, "n", "a") == obj("n", 9)


def test_an_event_from_before_the_deletion_does_not_bring_the_object_back() -> None:
    cache = ObjectCache()
    cache.put(LOGICAL_NODES, obj("n", 5))
    cache.remove(LOGICAL_NODES, obj("n", 8))
    cache.put(LOGICAL_NODES, obj("n", 6))
    assert names(cache) == set()
    cache.put(LOGICAL_NODES, obj("n", 9))
    assert names(cache) == {"n"}


def test_a_list_removes_what_was_deleted_while_the_watch_was_away() -> None:
    cache = ObjectCache()
    cache.put(LOGICAL_NODES, obj("gone", 3))
    cache.put(LOGICAL_NODES, obj("kept", 4))
    cache.replace(LOGICAL_NODES, [obj("kept", 4)], 10)
    assert names(cache) == {"kept"}


def test_a_list_does_not_remove_what_was_created_after_it_was_taken() -> None:
    cache = ObjectCache()
    cache.put(LOGICAL_NODES, obj("new", 11))
    cache.replace(LOGICAL_NODES, [], 10)
    assert names(cache) == {"new"}


def test_a_listener_hears_of_a_deletion_that_only_the_list_showed() -> None:
    cache = ObjectCache()
    cache.put(LOGICAL_NODES, obj("gone", 3))
    heard: list[tuple[Any, Any]] = []
    cache.listen(lambda _, before, after: heard.append((before, after)))
    cache.replace(LOGICAL_NODES, [], 10)
    assert heard == [(obj("gone", 3), None)]


def of_host(item: dict[str, Any]) -> str | None:
    return item.get("spec", {}).get("host")


def at(name: str, version: int, host: str | None) -> dict[str, Any]:
    return {**obj(name, version), "spec": {"host": host} if host else {}}


def test_objects_are_found_by_what_they_say_now_not_by_what_they_said_before() -> None:
    cache = ObjectCache()
    cache.put(LOGICAL_NODES, at("early", 1, "x"))

    def found(host: str) -> list[str]:
        return [item["metadata"]["name"] for item in cache.select(LOGICAL_NODES, of_host, host)]

    assert found("x") == ["early"]
    cache.put(LOGICAL_NODES, at("late", 2, "x"))
    cache.put(LOGICAL_NODES, at("early", 3, "y"))
    assert (found("x"), found("y")) == (["late"], ["early"])
    cache.put(LOGICAL_NODES, at("early", 4, None))
    cache.remove(LOGICAL_NODES, at("late", 5, "x"))
    assert (found("x"), found("y")) == ([], [])
    cache.replace(LOGICAL_NODES, [at("early", 4, None), at("new", 6, "x")], 7)
    assert found("x") == ["new"]
    assert cache.select(LOGICAL_NODES, of_host, "x")[0] is cache.get(LOGICAL_NODES, "new", "a")


def test_of_pods_and_nodes_only_the_fields_that_are_used_are_kept() -> None:
    cache = ObjectCache()
    metadata = {"name": "n", "resourceVersion": "1", "managedFields": [{"manager": "kubelet"}]}
    status = {"images": [{"names": ["vllm:1"]}], "allocatable": {"cpu": "8"}}
    cache.put(NODES, {"metadata": metadata, "spec": {"podCIDR": "10.0.0.0/24"}, "status": status})
    assert cache.get(NODES, "n") == {
        "metadata": {"name": "n", "resourceVersion": "1"},
        "spec": {},
        "status": {"allocatable": {"cpu": "8"}},
    }
    kept = {"weft.dev/drain": "5", "controller.kubernetes.io/pod-deletion-cost": "-1"}
    applied = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "cni/status": "[]", **kept}
    metadata = {"name": "p", "namespace": "a", "resourceVersion": "2", "annotations": applied}
    spec = {"nodeName": "n", "containers": [{"name": "main"}], "tolerations": [{"operator": "Exists"}]}
    running = {"ready": True, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
    status = {"phase": "Running", "containerStatuses": [running], "conditions": []}
    cache.put(PODS, {"metadata": metadata, "spec": spec, "status": status})
    assert cache.get(PODS, "p", "a") == {
        "metadata": {**metadata, "annotations": kept},
        "spec": {"nodeName": "n", "tolerations": [{"operator": "Exists"}]},
        "status": {"phase": "Running", "conditions": []},
    }


def test_of_a_container_that_waits_the_word_why_is_kept() -> None:
    cache = ObjectCache()
    metadata = {"name": "p", "namespace": "a", "resourceVersion": "1"}
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image vllm:1"}
    container = {"name": "main", "ready": False, "state": {"waiting": waiting}}
    status = {"phase": "Pending", "containerStatuses": [container, {"state": {"running": {}}}]}
    cache.put(PODS, {"metadata": metadata, "spec": {}, "status": status})
    found = cache.get(PODS, "p", "a")
    assert found is not None
    assert found["status"]["containerStatuses"] == [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]


def decoded(name: str, version: int) -> dict[str, Any]:
    """An object with field names and texts of its own, as they come from a watch."""
    conditions = [{"type": "Bound", "message": "every device was seen at the host"}]
    found: dict[str, Any] = json.loads(
        json.dumps({**obj(name, version), "status": {"conditions": conditions}})
    )
    return found


def test_what_many_objects_say_is_kept_once() -> None:
    cache = ObjectCache()
    for version, name in enumerate(("one", "two"), 1):
        cache.put(LOGICAL_NODES, decoded(name, version))
    one, two = cache.list(LOGICAL_NODES)
    assert one == decoded("one", 1)
    first, second = one["status"]["conditions"][0], two["status"]["conditions"][0]
    assert first["message"] is second["message"]
    assert all(left is right for left, right in zip(first, second, strict=True))


def test_texts_that_are_used_once_are_not_remembered_for_ever() -> None:
    texts = Texts()
    for number in range(3 * MOST_TEXTS):
        texts.share({"metadata": {"name": f"pod-{number}"}})
    assert len(texts._known) <= MOST_TEXTS + 10


def test_a_file_in_an_object_that_is_gone_is_not_kept() -> None:
    texts = Texts()
    texts.share({"spec": {"file": "x" * 1_000_000}})
    assert sum(map(len, texts._known)) < 1000


def test_of_an_object_whose_status_changed_the_spec_stays_what_it_was() -> None:
    cache = ObjectCache()
    spec = {"replicas": 2, "template": {"spec": {"containers": [{"name": "engine"}]}}}
    cache.put(INFERENCE_ROLES, {**obj("n", 1), "spec": copy.deepcopy(spec)})
    first = cache.get(INFERENCE_ROLES, "n", "a")
    cache.put(INFERENCE_ROLES, {**obj("n", 2), "spec": copy.deepcopy(spec), "status": {"replicas": 1}})
    second = cache.get(INFERENCE_ROLES, "n", "a")
    cache.put(INFERENCE_ROLES, {**obj("n", 3), "spec": {**spec, "replicas": 3}})
    third = cache.get(INFERENCE_ROLES, "n", "a")
    assert first is not None
    assert second is not None
    assert third is not None
    assert second["spec"] is first["spec"]
    assert second["status"] == {"replicas": 1}
    assert third["spec"] == {**spec, "replicas": 3}
    assert "status" not in third


def test_what_a_tenant_nested_too_deep_is_kept_as_a_word_that_says_so() -> None:
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"nested": [deep]}
    cache = ObjectCache()
    cache.put(INFERENCE_ROLES, {**obj("n", 1), "spec": {"template": deep, "replicas": 2}})
    kept = cache.get(INFERENCE_ROLES, "n", "a")
    assert kept is not None
    cache.put(INFERENCE_ROLES, {**obj("n", 2), "spec": {"template": deep, "replicas": 2}})
    # Whatever copies or compares it does not run out of stack.
    assert copy.deepcopy(kept) == kept
    assert kept["spec"]["replicas"] == 2
    assert TOO_DEEP in json.dumps(kept)

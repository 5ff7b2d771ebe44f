"""Pods and logical nodes as they are created."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.fleet import GROUP, NAMESPACE, TEMPLATE, Fleet
from support.inference import T0
from weft.api import InferenceGroup, InferenceRole, LogicalNode
from weft.api.resources import INFERENCE_GROUPS, INFERENCE_ROLES
from weft.balancing import replicas
from weft.balancing.bodies import node_body, pod_body, role_labels, with_template
from weft.balancing.replicas import revision_of
from weft.cluster import Object

FLEET = Fleet(nodes=True)
OWNER = InferenceGroup.model_validate(FLEET.cluster.objects[(INFERENCE_GROUPS, NAMESPACE, GROUP)])


def role(name: str = "decode", **spec: Any) -> InferenceRole:
    """A role with its pods' template, whose pod spec has these fields besides its container."""
    raw = copy.deepcopy(FLEET.cluster.objects[(INFERENCE_ROLES, NAMESPACE, name)])
    if spec:
        raw["spec"]["template"] = {**TEMPLATE, "spec": {**TEMPLATE["spec"], **spec}}
    return whole(raw)


def whole(raw: Object) -> InferenceRole:
    found = with_template(OWNER, InferenceRole.model_validate(raw))
    assert found is not None
    return found


@pytest.mark.shows("InferenceRole.spec.stage")
def test_a_pod_keeps_the_templates_labels_and_gets_group_role_stage_gate_and_owner() -> None:
    body = pod_body(OWNER, role(), "llama-3", "", T0)
    assert body["metadata"]["labels"] == {
        "app": "engine",
        "llm-d.ai/role": "decode",
        "weft.dev/group": "llama",
        "weft.dev/replica": "llama-3",
        "weft.dev/role": "decode",
        "weft.dev/stage": "decode",
        "weft.dev/worker-index": "0",
    }
    assert body["spec"]["readinessGates"] == [{"conditionType": "weft.dev/serving"}]
    owner = body["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("InferenceGroup", "llama", True)
    assert "affinity" not in body["spec"]


def test_every_alternative_of_a_templates_node_affinity_is_narrowed_to_the_host() -> None:
    terms = [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
        {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["worker-9"]}]},
    ]
    affinity = {
        "podAntiAffinity": {"x": 1},
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}},
    }
    body = pod_body(OWNER, role(affinity=affinity), "llama-3", "worker-1", T0)
    required = body["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    here = {"key": "metadata.name", "operator": "In", "values": ["worker-1"]}
    assert [here in term["matchFields"] for term in required["nodeSelectorTerms"]] == [True, True]
    assert required["nodeSelectorTerms"][0]["matchExpressions"] == terms[0]["matchExpressions"]
    assert body["spec"]["affinity"]["podAntiAffinity"] == {"x": 1}
    assert len(terms[1]["matchFields"]) == 1, "the template itself is not changed"


def test_a_template_cannot_take_weft_labels_for_itself() -> None:
    raw = copy.deepcopy(FLEET.cluster.objects[(INFERENCE_ROLES, NAMESPACE, "decode")])
    template = copy.deepcopy(TEMPLATE)
    template["metadata"]["labels"] |= {"weft.dev/group": "other", "weft.dev/worker-index": "7"}
    raw["spec"]["template"] = template
    labels = pod_body(OWNER, whole(raw), "llama-3", "", T0)["metadata"]["labels"]
    assert (labels["weft.dev/group"], labels["weft.dev/worker-index"]) == ("llama", "0")
    assert "weft.dev/worker-index" not in role_labels("llama", whole(raw)), "what a flip writes"


@pytest.mark.shows("InferenceRole.spec.labels")
def test_a_roles_labels_lie_over_the_groups_template_or_its_own() -> None:
    raw = copy.deepcopy(FLEET.cluster.objects[(INFERENCE_ROLES, NAMESPACE, "decode")])
    raw["spec"]["labels"] = {"app": "decoder", "tier": "gold"}
    of_the_group = pod_body(OWNER, whole(raw), "llama-3", "", T0)["metadata"]["labels"]
    raw["spec"]["template"] = {"metadata": {"labels": {"own": "yes", "tier": "none"}}, "spec": {}}
    own = pod_body(OWNER, whole(raw), "llama-3", "", T0)["metadata"]["labels"]

    assert (of_the_group["app"], of_the_group["tier"]) == ("decoder", "gold")
    assert (own["app"], own["tier"], own["own"]) == ("decoder", "gold", "yes")
    assert TEMPLATE["metadata"]["labels"] == {"app": "engine"}, "the template itself is not changed"


def test_the_revision_leaves_labels_out_and_nothing_else() -> None:
    assert revision_of(role("prefill")) == revision_of(role("decode"))
    assert revision_of(role(priority=1)) != revision_of(role())


@pytest.mark.shows("InferenceRole.spec.node")
def test_a_replicas_logical_node_is_valid_and_has_the_roles_shape() -> None:
    node = LogicalNode.model_validate({**node_body(OWNER, role(), "llama-3"), "status": {}})
    assert node.spec.accelerator_count == 2
    assert node.metadata.name == "llama-3"
    assert node.metadata.labels["weft.dev/group"] == "llama"


def test_what_pods_are_made_from_is_hashed_once_in_a_pass_and_anew_for_another_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[object] = []

    def note(value: object) -> str:
        hashed.append(value)
        return digest(value)

    digest = replicas.digest
    monkeypatch.setattr(replicas, "digest", note)
    one = role()
    assert revision_of(one) == revision_of(one)
    assert len(hashed) == len({str(value) for value in hashed})
    assert (one == role(), one.model_dump() == role().model_dump()) == (True, True)
    spec = one.spec.model_copy(update={"template": {"spec": {"containers": []}}})
    assert revision_of(one.model_copy(update={"spec": spec})) != revision_of(one)

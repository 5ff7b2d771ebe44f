from __future__ import annotations

import pytest
from pydantic import ValidationError

from weft.api import GPUPool, InferenceRole, LabelSelector, LogicalNode, ObjectMeta, Transfer


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        ({}, {}, True),
        ({"matchLabels": {"zone": "a"}}, {"zone": "a", "other": "b"}, True),
        ({"matchLabels": {"zone": "a"}}, {"zone": "b"}, False),
        ({"matchLabels": {"zone": ""}}, {}, False),
        (
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
            {"zone": "b"},
            True,
        ),
        ({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}, {}, False),
        ({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}, {}, True),
        ({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}, {"zone": "a"}, False),
        ({"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, {"zone": ""}, True),
        ({"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}, {}, True),
        ({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}, {"zone": "a"}, False),
        (
            {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]},
            {"a": "1"},
            False,
        ),
    ],
)
def test_label_selectors_select_as_kubernetes_does(
    selector: dict[str, object], labels: dict[str, str], selected: bool
) -> None:
    assert LabelSelector.model_validate(selector).matches(labels) is selected


def test_fields_of_a_newer_version_are_ignored() -> None:
    pool = GPUPool.model_validate(
        {
            "metadata": {"name": "p", "new": 1},
            "spec": {"fabricRef": {"name": "f"}, "new": {"deep": 1}},
            "new": 1,
        }
    )

    assert pool.spec.fabric_ref.name == "f"


def test_no_namespaces_and_all_namespaces_stay_apart() -> None:
    spec = {"fabricRef": {"name": "f"}}
    nobody = GPUPool.model_validate({"metadata": {"name": "p"}, "spec": spec})
    everybody = GPUPool.model_validate({"metadata": {"name": "p"}, "spec": {**spec, "allowedNamespaces": {}}})

    assert nobody.spec.allowed_namespaces is None
    assert everybody.spec.allowed_namespaces == LabelSelector()
    assert everybody.dump()["spec"]["allowedNamespaces"] == {}
    assert "allowedNamespaces" not in nobody.dump()["spec"]


def test_a_new_object_is_written_without_what_the_api_server_fills_in() -> None:
    node = LogicalNode.model_validate(
        {"metadata": {"name": "n", "namespace": "a"}, "spec": {"memory": [{"name": "kv", "size": "2Ti"}]}}
    )

    assert node.dump() == {
        "apiVersion": "weft.dev/v1alpha2",
        "kind": "LogicalNode",
        "metadata": {"name": "n", "namespace": "a"},
        "spec": {
            "memory": [{"name": "kv", "size": "2Ti"}],
        },
    }


def test_metadata_keeps_owners_and_times() -> None:
    stored = {
        "name": "n",
        "namespace": "a",
        "uid": "u",
        "generation": 2,
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "deletionTimestamp": "2026-01-02T03:05:05Z",
        "deletionGracePeriodSeconds": 0,
        "ownerReferences": [
            {
                "apiVersion": "weft.dev/v1alpha2",
                "kind": "InferenceGroup",
                "name": "g",
                "uid": "o",
                "controller": True,
            }
        ],
    }

    assert ObjectMeta.model_validate(stored).dump() == stored


def test_a_status_of_zeros_is_written() -> None:
    role = InferenceRole.model_validate(
        {
            "metadata": {"name": "r"},
            "spec": {
                "groupRef": {"name": "g"},
                "stage": "Decode",
                "maxReplicas": 3,
                "profileRef": {"name": "p"},
            },
        }
    )

    assert "status" not in role.dump()
    assert role.status.dump() == {
        "observedGeneration": 0,
        "desiredReplicas": 0,
        "replicas": 0,
        "updatedReplicas": 0,
        "readyReplicas": 0,
    }


def test_a_transfer_is_from_a_role() -> None:
    transfer = {
        "name": "t",
        "from": "prefill",
        "to": "decode",
        "replica": "g-4",
        "step": "Draining",
        "startTime": "2026-01-02T03:04:05Z",
    }

    assert Transfer.model_validate(transfer).from_ == "prefill"
    assert Transfer.model_validate(transfer).dump() == transfer


def test_models_are_values() -> None:
    meta = ObjectMeta(name="a")
    with pytest.raises(ValidationError):
        meta.name = "b"  # type: ignore[misc] # that it is refused is the point


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_moment_outside_of_the_calendar_is_a_wrong_field_like_any_other(moment: str) -> None:
    with pytest.raises(ValidationError, match="not within the calendar"):
        ObjectMeta.model_validate({"name": "n", "creationTimestamp": moment})

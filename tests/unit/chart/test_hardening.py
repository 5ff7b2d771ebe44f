"""What a cluster with rules of its own asks of the chart: network policies, assigned users, more of a pod."""

from __future__ import annotations

import pytest
import yaml

from support.chart import CHART, Helm, Object, find, of_kind, pod_templates
from weft.api.crd import DEFINITIONS

from .cases import CASES, EVERYTHING

EMULATORS = {"Deployment/weft-composer-emulator", "Deployment/weft-composer-emulator-memory"}
CLOSED = {"Deployment/weft-composer", "Pod/weft-composer-test", "Job/weft-composer-uninstall-check"}


@pytest.fixture(scope="module")
def everything(helm: Helm) -> list[Object]:
    return helm.render(EVERYTHING)


@pytest.fixture(scope="module")
def policy(everything: list[Object]) -> Object:
    spec: Object = find(everything, "NetworkPolicy", "weft-composer")["spec"]
    return spec


def selected(selector: Object, objects: list[Object]) -> set[str]:
    """The pods that a label selector finds."""
    checks = {"In": lambda has, values: has in values, "NotIn": lambda has, values: has not in values}
    return {
        name
        for name, pod in pod_templates(objects)
        if selector["matchLabels"].items() <= pod["metadata"]["labels"].items()
        and all(
            checks[each["operator"]](pod["metadata"]["labels"].get(each["key"]), each["values"])
            for each in selector.get("matchExpressions", ())
        )
    }


@pytest.mark.parametrize("case", [case for case, values in CASES.items() if values is not EVERYTHING])
def test_no_network_policy_is_made_unless_asked_for(helm: Helm, case: str) -> None:
    assert not of_kind(helm.render(CASES[case]), "NetworkPolicy")


def test_a_policy_without_a_way_to_the_api_server_is_refused_and_says_what_is_missing(helm: Helm) -> None:
    done = helm.template({"networkPolicy": {"enabled": True}})
    assert done.returncode != 0
    assert "networkPolicy.egress has to say where the operator may connect" in done.stderr


def test_the_policy_closes_the_operator_and_the_charts_checks_and_no_other_pod(
    everything: list[Object], policy: Object
) -> None:
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert selected(policy["podSelector"], everything) == CLOSED


def test_metrics_are_open_to_the_peers_of_the_values_and_to_helm_test_alone(
    everything: list[Object], policy: Object
) -> None:
    (rule,) = policy["ingress"]
    (container,) = find(everything, "Deployment", "weft-composer")["spec"]["template"]["spec"]["containers"]
    assert [each["port"] for each in rule["ports"]] == [container["ports"][0]["containerPort"]]
    own, *others = rule["from"]
    assert selected(own["podSelector"], everything) == {"Pod/weft-composer-test"}
    assert others == EVERYTHING["networkPolicy"]["metricsFrom"]


def test_the_operator_reaches_names_the_releases_own_pods_and_what_the_values_say(
    everything: list[Object], policy: Object
) -> None:
    names, operator, emulators, *others = policy["egress"]
    assert {each["port"] for each in names["ports"]} == {53, 5353}
    for rule, pods in ((operator, {"Deployment/weft-composer"}), (emulators, EMULATORS)):
        (peer,) = rule["to"]
        assert selected(peer["podSelector"], everything) == pods
        ports = {
            port["containerPort"]
            for name, pod in pod_templates(everything)
            if name in pods
            for port in pod["spec"]["containers"][0]["ports"]
        }
        assert {each["port"] for each in rule["ports"]} == ports
    assert others == EVERYTHING["networkPolicy"]["egress"]


def test_without_emulators_no_rule_leads_to_any(helm: Helm) -> None:
    values = {"networkPolicy": {"enabled": True, "egress": [{"ports": [{"port": 6443}]}]}}
    (policy,) = of_kind(helm.render(values), "NetworkPolicy")
    assert [[each["port"] for each in rule["ports"]] for rule in policy["spec"]["egress"]] == [
        [53, 53, 5353, 5353],
        [8080],
        [6443],
    ]


def test_where_the_cluster_assigns_users_no_pod_asks_for_one_and_none_runs_as_root(helm: Helm) -> None:
    nothing = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    pods = dict(pod_templates(helm.render({**EVERYTHING, "podSecurityContext": nothing})))
    assert set(pods) == CLOSED | EMULATORS
    for name, pod in pods.items():
        assert pod["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name


def test_a_user_of_ones_own_is_that_of_every_pod(helm: Helm) -> None:
    own = {"runAsUser": 1000680000, "runAsGroup": 3000, "fsGroup": 2000}
    pods = dict(pod_templates(helm.render({**EVERYTHING, "podSecurityContext": own})))
    for name, pod in pods.items():
        assert own.items() <= pod["spec"]["securityContext"].items(), name


def test_variables_and_volumes_of_the_values_come_after_the_charts(everything: list[Object]) -> None:
    spec = find(everything, "Deployment", "weft-composer")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["env"][3:] == EVERYTHING["extraEnv"]
    assert [each["name"] for each in container["env"][:3]] == [
        "WEFT_NAMESPACE",
        "WEFT_IDENTITY",
        "WEFT_HEALTH_HOST",
    ]
    assert container["volumeMounts"][-1:] == EVERYTHING["extraVolumeMounts"]
    assert spec["volumes"][-1:] == EVERYTHING["extraVolumes"]
    assert len({each["name"] for each in spec["volumes"]}) == len(spec["volumes"])


def test_artifact_hub_is_told_of_every_definition() -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    told = yaml.safe_load(annotations["artifacthub.io/crds"])
    assert {(each["name"], each["kind"], each["version"]) for each in told} == {
        (each.resource.plural + "." + each.resource.group, each.resource.kind, each.resource.version)
        for each in DEFINITIONS
    }
    assert all(each["displayName"] and each["description"] for each in told)
    assert annotations["artifacthub.io/license"] == "Apache-2.0"

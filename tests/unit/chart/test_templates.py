"""What the chart renders is what the API server takes, and what its values say."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate.utils
import pytest
import yaml
from cryptography import x509
from prometheus_client import CollectorRegistry

from support.chart import CHART, NAMESPACE, Helm, Object, find, of_kind, pod_templates
from weft.api.crd import DEFINITIONS
from weft.runtime.health import HealthServer
from weft.runtime.settings import Settings, load
from weft_dev.processes import free_ports

from .cases import CASES, EVERYTHING

VERSIONS = ("1.34", "1.35", "1.36", "1.37")
FOREIGN = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""Kinds that Kubernetes has no schema for."""


@pytest.fixture(scope="session", autouse=True)
def schemas_read_once() -> None:
    """Reading a version's definitions takes longer than all validations by them."""
    utils: Any = kubernetes_validate.utils
    utils.schema_contents = functools.cache(utils.schema_contents)


@pytest.fixture(scope="session")
def rendered(helm: Helm) -> dict[str, list[Object]]:
    return {case: helm.render(values) for case, values in CASES.items()}


def test_helm_lint_finds_nothing_even_when_strict(helm: Helm) -> None:
    done = helm.run("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid_for_this_kubernetes(
    rendered: dict[str, list[Object]], case: str, version: str
) -> None:
    checked = 0
    for body in rendered[case]:
        if body["kind"] not in FOREIGN:
            assert kubernetes_validate.utils.validate(body, version, strict=True) == version
            checked += 1
    assert checked > 10


def test_a_misspelt_field_would_have_been_found(rendered: dict[str, list[Object]]) -> None:
    body = json.loads(json.dumps(find(rendered["as it comes"], "Deployment", "weft")))
    body["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.utils.validate(body, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("case", CASES)
def test_every_pod_keeps_the_restricted_pod_security_standard(
    rendered: dict[str, list[Object]], case: str
) -> None:
    pods = dict(pod_templates(rendered[case]))
    assert {"Deployment/weft", "Pod/weft-test"} <= {name.replace("-composer", "") for name in pods}
    for name, pod in pods.items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] == 65532, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")), name
        assert all("hostPath" not in volume for volume in spec.get("volumes", [])), name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_only_pods_that_speak_to_the_api_server_get_a_token(rendered: dict[str, list[Object]]) -> None:
    tokens = {
        name: pod["spec"]["automountServiceAccountToken"]
        for name, pod in pod_templates(rendered["with everything"])
    }
    assert tokens == {
        "Deployment/weft-composer": True,
        "Deployment/weft-composer-emulator": False,
        "Deployment/weft-composer-emulator-memory": False,
        "Pod/weft-composer-test": True,
        "Job/weft-composer-uninstall-check": True,
    }
    accounts = of_kind(rendered["with everything"], "ServiceAccount")
    assert [account["automountServiceAccountToken"] for account in accounts] == [False] * 3


@pytest.mark.parametrize("case", CASES)
def test_no_permission_is_a_wildcard(rendered: dict[str, list[Object]], case: str) -> None:
    roles = of_kind(rendered[case], "Role", "ClusterRole")
    assert len(roles) >= 2
    for role in roles:
        for rule in role["rules"]:
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not any("*" in word for word in words), (role["metadata"]["name"], rule)


def test_the_operator_may_scale_the_kinds_that_are_listed_and_change_nothing_else_of_them(
    helm: Helm,
) -> None:
    listed = {"group": "apps", "version": "v1", "kind": "Deployment", "resource": "deployments"}
    objects = helm.render({"settings": {"scale_targets": [listed]}, "crds": {"keep": False}})
    rules = [one for one in find(objects, "ClusterRole", "weft")["rules"] if "apps" in one["apiGroups"]]
    assert rules == [{"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "patch"]}]


def test_cluster_scoped_names_differ_between_releases(helm: Helm) -> None:
    cluster_scoped = ("ClusterRole", "ClusterRoleBinding")
    names = [
        {(each["kind"], each["metadata"]["name"]) for each in of_kind(objects, *cluster_scoped)}
        for objects in (
            helm.render({"crds": {"keep": False}}, release="one"),
            helm.render({"crds": {"keep": False}}, release="two"),
        )
    ]
    assert len(names[0]) == 6
    assert not names[0] & names[1]


def test_the_longest_release_name_makes_names_that_kubernetes_takes(helm: Helm) -> None:
    objects = helm.render({"emulator": {"enabled": True}, "crds": {"keep": False}}, release="r" * 53)
    assert max(len(each["metadata"]["name"]) for each in objects) <= 63


@pytest.mark.parametrize(
    ("release", "name"), [("my.weft", "my-weft"), ("a" * 38 + "--weft", "a" * 38), ("a.b", "a-b-weft")]
)
def test_services_have_names_that_kubernetes_takes_whatever_the_release_is_called(
    helm: Helm, release: str, name: str
) -> None:
    objects = helm.render({"emulator": {"enabled": True}}, release=release)
    services = [each["metadata"]["name"] for each in of_kind(objects, "Service")]
    assert sorted(services) == [name, f"{name}-emulator"]


def test_a_release_that_begins_with_a_digit_needs_another_name_for_its_objects(helm: Helm) -> None:
    done = helm.template(release="1weft")
    assert "that of the release, 1weft, does not: set fullnameOverride" in done.stderr
    assert helm.render({"fullnameOverride": "weft"}, release="1weft")


def test_crds_are_kept_unless_asked_otherwise(rendered: dict[str, list[Object]]) -> None:
    policies = {
        case: [
            each["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
            for each in of_kind(rendered[case], "CustomResourceDefinition")
        ]
        for case in ("as it comes", "without what can be left out", "with everything")
    }
    assert policies == {
        "as it comes": ["keep"] * len(DEFINITIONS),
        "without what can be left out": [],
        "with everything": [None] * len(DEFINITIONS),
    }


def test_the_crds_are_the_committed_ones(rendered: dict[str, list[Object]]) -> None:
    committed = [yaml.safe_load(file.read_text()) for file in (CHART.parents[1] / "crds").glob("*.yaml")]
    assert len(committed) == len(DEFINITIONS)
    for wanted in committed:
        name = wanted["metadata"]["name"]
        assert find(rendered["as it comes"], "CustomResourceDefinition", name)["spec"] == wanted["spec"]


def test_uninstalling_is_checked_only_where_it_removes_the_crds(rendered: dict[str, list[Object]]) -> None:
    hooks = {
        case: [
            each["metadata"]["name"]
            for each in objects
            if each["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-delete"
        ]
        for case, objects in rendered.items()
    }
    assert hooks == {**{case: [] for case in CASES}, "with everything": ["weft-composer-uninstall-check"]}


def test_only_what_helm_removes_itself_is_a_hook(rendered: dict[str, list[Object]]) -> None:
    """Helm forgets the objects of hooks when a release goes; those that stay until then must not be any."""
    for objects in rendered.values():
        for each in objects:
            if "helm.sh/hook" in each["metadata"].get("annotations", {}):
                assert each["kind"] in ("Pod", "Job")
                assert "hook-succeeded" in each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]


@pytest.mark.parametrize("case", CASES)
def test_weft_run_reads_the_settings_as_the_values_have_them(
    rendered: dict[str, list[Object]], case: str, tmp_path: Path
) -> None:
    (config,) = (each for each in of_kind(rendered[case], "ConfigMap") if "weft.yaml" in each.get("data", {}))
    file = tmp_path / "weft.yaml"
    file.write_text(config["data"]["weft.yaml"])
    wanted = Settings.model_validate(CASES[case].get("settings", {}))
    assert load(file).model_dump(exclude={"identity"}) == wanted.model_dump(exclude={"identity"})


def test_the_settings_are_mounted_where_weft_run_looks(rendered: dict[str, list[Object]]) -> None:
    pod = find(rendered["as it comes"], "Deployment", "weft")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["run", "--config", "/etc/weft/weft.yaml"]
    assert container["volumeMounts"] == [{"name": "settings", "mountPath": "/etc/weft", "readOnly": True}]
    assert pod["volumes"] == [{"name": "settings", "configMap": {"name": "weft"}}]
    fields = {
        each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in container["env"]
        if "valueFrom" in each
    }
    assert fields == {"WEFT_NAMESPACE": "metadata.namespace", "WEFT_IDENTITY": "metadata.name"}


async def test_probes_reach_the_operator_in_a_cluster_of_ipv4_or_of_ipv6_alone(
    rendered: dict[str, list[Object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = find(rendered["as it comes"], "Deployment", "weft")["spec"]["template"]["spec"]
    for each in pod["containers"][0]["env"]:
        if "value" in each:
            monkeypatch.setenv(each["name"], each["value"])
    server = HealthServer(CollectorRegistry(), lambda: True, lambda: True, dict)
    (port,) = free_ports(1)
    await server.start(Settings().health_host, port)
    try:
        for address in ("127.0.0.1", "::1") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
            _, writer = await asyncio.open_connection(address, port)
            writer.close()
    finally:
        await server.stop()


def test_helm_test_waits_for_a_new_leader_as_long_as_the_lease_may_take(helm: Helm) -> None:
    waits = {}
    for lease_seconds in (15, 20.5, 600):
        pod = find(helm.render({"settings": {"lease_seconds": lease_seconds}}), "Pod", "weft-test")["spec"]
        (timeout,) = (each for each in pod["containers"][0]["args"] if each.startswith("--timeout="))
        waits[lease_seconds] = int(timeout.partition("=")[2])
        assert waits[lease_seconds] < pod["activeDeadlineSeconds"]
    # What a leader that fell silent keeps its place for, and a quarter more until the next renewal.
    assert all(wait > 1.25 * lease_seconds + 30 for lease_seconds, wait in waits.items())


def test_changed_settings_make_new_operator_pods_and_nothing_else_does(helm: Helm) -> None:
    def templates(values: Object) -> dict[str, Object]:
        return dict(pod_templates(of_kind(helm.render(values), "Deployment")))

    before = templates({"emulator": {"enabled": True}})
    relabelled = templates({"emulator": {"enabled": True}, "commonLabels": {"a": "b"}, "replicas": 3})
    changed = templates({"emulator": {"enabled": True}, "settings": {"workers": 8}})
    assert relabelled == before
    assert changed["Deployment/weft"] != before["Deployment/weft"]
    # A new pod of the emulator is an empty rack.
    assert changed["Deployment/weft-emulator"] == before["Deployment/weft-emulator"]


def test_services_and_the_disruption_budget_select_the_pods_of_their_component(
    rendered: dict[str, list[Object]],
) -> None:
    objects = rendered["with everything"]
    labels = {name: pod["metadata"]["labels"] for name, pod in pod_templates(objects)}
    selectors = {
        "weft-composer": find(objects, "Service", "weft-composer")["spec"]["selector"],
        **{
            name: find(objects, "Service", name)["spec"]["selector"]
            for name in ("weft-composer-emulator", "weft-composer-emulator-memory")
        },
    }
    budget = find(objects, "PodDisruptionBudget", "weft-composer")["spec"]
    assert budget["selector"]["matchLabels"] == selectors["weft-composer"]
    for name, selector in selectors.items():
        selected = [key for key, has in labels.items() if selector.items() <= has.items()]
        assert selected == [f"Deployment/{name}"]


def test_the_emulator_listens_where_its_service_leads(rendered: dict[str, list[Object]]) -> None:
    objects = rendered["with the emulator"]
    (port,) = find(objects, "Service", "weft-emulator")["spec"]["ports"]
    assert port == {"name": "https", "port": 443, "targetPort": "https"}
    (container,) = find(objects, "Deployment", "weft-emulator")["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "https", "containerPort": 8443}]
    assert {"--host=", "--port=8443"} <= set(container["args"])


def test_the_emulators_certificate_is_for_its_service_and_from_the_authority_beside_it(
    rendered: dict[str, list[Object]],
) -> None:
    data = find(rendered["with the emulator"], "Secret", "weft-emulator-tls")["data"]
    authority, certificate = (
        x509.load_pem_x509_certificate(base64.b64decode(data[key])) for key in ("ca.crt", "tls.crt")
    )
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "weft-emulator.weft-system" in names.get_values_for_type(x509.DNSName)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc >= timedelta(days=3650)


def test_the_release_namespace_is_the_only_one_that_is_named(helm: Helm) -> None:
    objects = helm.render({"emulator": {"enabled": True}, "crds": {"keep": False}}, namespace="elsewhere")
    assert {each["metadata"].get("namespace", "elsewhere") for each in objects} == {"elsewhere"}
    assert NAMESPACE not in json.dumps(of_kind(objects, "Deployment", "ClusterRoleBinding", "Pod"))


def test_the_case_with_everything_sets_every_setting_that_the_chart_has() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(EVERYTHING["settings"]) == set(schema["properties"]["settings"]["properties"])


def test_secrets_for_sources_are_mounted_where_the_settings_say(rendered: dict[str, list[Object]]) -> None:
    case = next(name for name, values in CASES.items() if values is EVERYTHING)
    (operator,) = [
        one for one in of_kind(rendered[case], "Deployment") if "emulator" not in one["metadata"]["name"]
    ]
    spec = operator["spec"]["template"]["spec"]
    mounts = {one["name"]: one["mountPath"] for one in spec["containers"][0]["volumeMounts"]}
    mounted = {
        mounts[one["name"]]
        for one in spec["volumes"]
        if one.get("secret", {}).get("secretName") in ("thanos", "mimir")
    }
    assert mounted == {"/etc/weft-secrets/thanos", "/etc/weft-secrets/mimir"}

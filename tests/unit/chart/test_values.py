"""values.yaml, its schema, the notes and the README say the same thing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import CHART, NAMESPACE, Helm, find
from weft.api import Fabric, GPUPool, LogicalNode
from weft.balancing.presets import ENGINE_REQUIRED, FRONT_REQUIRED
from weft.balancing.series import EngineSeries, FrontEndSeries, histogram_names, signal_names
from weft.balancing.settings import PresetSettings, SourceSettings
from weft.balancing.targets import ScaleTargetKind
from weft.emulator.inventory import load as load_inventory
from weft.runtime.settings import Settings
from weft_dev.kind_site import EMULATORS, PROMETHEUS, VALUES

CHARTS_OWN = {"namespace", "identity", "health_host", "health_port"}
"""Settings that follow from the pod: the chart sets them, a user cannot."""


ALONE = {
    "engine": dict.fromkeys(ENGINE_REQUIRED, "up"),
    "front_end": dict.fromkeys(FRONT_REQUIRED, "up"),
    "kv_hold_seconds": 5,
}
"""A preset that inherits nothing."""


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    body: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return body


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return body


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"replica": 2}, "additional properties 'replica' not allowed"),
        ({"crds": {"keeep": True}}, "/crds': additional properties 'keeep' not allowed"),
        ({"crds": {"keep": "no"}}, "/crds/keep': got string, want boolean"),
        ({"settings": {"lease_secs": 3}}, "additional properties 'lease_secs' not allowed"),
        (
            {"settings": {"scale_targets": [{"kind": "Deployment"}]}},
            "/settings/scale_targets/0': missing prop",
        ),
        ({"settings": {"namespace": "a"}}, "additional properties 'namespace' not allowed"),
        ({"settings": {"sources": {"default": {}}}}, "missing property 'url'"),
        ({"settings": {"sources": {"default": {"url": "prometheus:9090"}}}}, "does not match pattern"),
        ({"settings": {"log_level": "info"}}, "'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
        ({"emulator": {"inventory": {"name": None}}}, "/emulator/inventory"),
        ({"emulator": {"more": [{"name": "memory"}]}}, "/emulator/more/0': missing property 'inventory'"),
        ({"emulator": {"more": [{"name": "memory-at-the-top"}]}}, "does not match pattern"),
        ({"settings": {"lease_seconds": 0.01}}, "/settings/lease_seconds': minimum: got 0.01, want 1"),
        (
            {"settings": {"sources": {"My": {"url": "http://a"}}}},
            "/settings/sources': additional properties 'My'",
        ),
        ({"crds": {"keep": None}}, "/crds': missing property 'keep'"),
        ({"image": {"repository": None}}, "/image': missing property 'repository'"),
        ({"emulator": None}, "missing property 'emulator'"),
        ({"fullnameOverride": "My_Weft"}, "/fullnameOverride': 'My_Weft' does not match pattern"),
        (
            {"commonLabels": {"app.kubernetes.io/name": "a"}},
            "/commonLabels/app.kubernetes.io~1name': false schema",
        ),
        ({"podLabels": {"app.kubernetes.io/name": "a"}}, "/podLabels/app.kubernetes.io~1name': false schema"),
        ({"extraEnv": [{"name": "WEFT_NAMESPACE", "value": "a"}]}, "/extraEnv/0/name': 'not' failed"),
        ({"extraVolumes": [{"name": "settings", "emptyDir": {}}]}, "/extraVolumes/0/name': 'not' failed"),
        ({"podSecurityContext": {"runAsUser": 0}}, "/podSecurityContext/runAsUser': minimum: got 0, want 1"),
        (
            {"networkPolicy": {"egress": [{"from": []}]}},
            "/networkPolicy/egress/0': additional properties 'from'",
        ),
        ({"networkPolicy": {"metricsFrom": [{}]}}, "/networkPolicy/metricsFrom/0': minProperties"),
        ({"image": {"pullPolicy": "Sometimes"}}, "'IfNotPresent', 'Always', 'Never'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(helm: Helm, wrong: Mapping[str, Any], message: str) -> None:
    done = helm.template(wrong)
    assert done.returncode != 0
    assert message in done.stderr


def test_an_account_that_is_not_made_has_to_be_named(helm: Helm) -> None:
    done = helm.template({"serviceAccount": {"create": False}})
    assert "serviceAccount.name is needed when serviceAccount.create is false" in done.stderr


def test_the_schema_has_every_setting_of_the_operator_but_those_of_the_chart(schema: dict[str, Any]) -> None:
    settings = schema["properties"]["settings"]["properties"]
    assert set(settings) == set(Settings.model_fields) - CHARTS_OWN
    for name, model in (("sources", SourceSettings), ("presets", PresetSettings)):
        (one,) = settings[name]["patternProperties"].values()
        assert set(one["properties"]) == set(model.model_fields)
    assert set(settings["scale_targets"]["items"]["properties"]) == set(ScaleTargetKind.model_fields)
    for part, kind in (("engine", EngineSeries), ("front_end", FrontEndSeries)):
        signals = {*signal_names(kind), *histogram_names(kind)}
        assert set(one["properties"][part]["properties"]) == signals


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        (
            {"inherits": "vlm"},
            "/mine/inherits': value must be one of '', 'vllm', 'vllm-router', 'vllm-smg', 'sglang',",
        ),
        (
            {"inherits": "vllm", "engine": {"waitng": "x"}},
            "/engine': additional properties 'waitng' not allowed",
        ),
        ({"inherits": "vllm", "engine": {"waiting": " "}}, "/engine/waiting': ' ' does not match pattern"),
        (
            {"inherits": "vllm", "front_end": {"jobs": "x[$lng]"}},
            "/front_end/jobs': 'x[$lng]' does not match",
        ),
        ({}, "/mine': missing properties 'engine', 'front_end', 'kv_hold_seconds'"),
        ({**ALONE, "engine": {"running": "x"}}, "/engine': missing properties 'waiting', 'age', 'targets'"),
        ({**ALONE, "front_end": {}}, "/front_end': missing properties"),
    ],
)
def test_a_preset_with_which_no_pod_would_start_is_refused_before_the_rollout(
    helm: Helm, preset: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="mine"):
        Settings.model_validate({"presets": {"mine": preset}})
    done = helm.template({"settings": {"presets": {"mine": preset}}})
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(
    "preset",
    [
        {"inherits": "vllm"},
        ALONE,
        {**ALONE, "inherits": ""},
        {
            "inherits": "vllm",
            "engine": {"running": 'label_replace(x[$long:$step], "a", "$1", "b", "(.*)$") # c\n'},
        },
    ],
)
def test_a_preset_that_the_operator_takes_is_taken_by_the_chart(
    helm: Helm, preset: Mapping[str, Any]
) -> None:
    Settings.model_validate({"presets": {"mine": preset}})
    done = helm.template({"settings": {"presets": {"mine": preset}}})
    assert done.returncode == 0, done.stderr


LOGIN = "/etc/weft-secrets/login"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"bearer_token_file": "/t", "basic_auth": {"username": "a", "password_file": "/p"}},
            "bearer_token_file and basic_auth: set one of them",
        ),
        (
            {"bearer_token_file": "/t", "headers": {"authorization": "x"}},
            "headers: Authorization is set by bearer_token_file or basic_auth already",
        ),
        ({"key_file": "/k"}, "key_file: needs certificate_file"),
        ({"url": "http://p", "ca_file": "/c"}, "url: has to begin with https:// where certificates are set"),
    ],
)
def test_a_source_with_which_no_pod_would_start_is_refused_with_the_operators_words(
    helm: Helm, source: Mapping[str, Any], message: str
) -> None:
    sources = {"default": {"url": "https://p", **source}}
    with pytest.raises(ValueError, match=message.partition(": ")[2]):
        Settings.model_validate({"sources": sources})
    done = helm.template({"settings": {"sources": sources}})
    assert done.returncode != 0
    assert message in done.stderr


def test_a_file_of_a_secret_that_is_not_mounted_is_refused_with_its_name(helm: Helm) -> None:
    settings = {"sources": {"default": {"url": "https://p", "ca_file": f"{LOGIN}/ca.crt"}}}
    assert f"{LOGIN}/ca.crt is of the Secret login, which mountedSecrets does not name" in (
        helm.template({"settings": settings}).stderr
    )
    own = {"extraVolumeMounts": [{"name": "own", "mountPath": LOGIN}]}
    for values in ({"mountedSecrets": ["login"]}, own):
        assert helm.template({"settings": settings, **values}).returncode == 0


@pytest.mark.parametrize("settings", [None, {"sources": None}, {"presets": None}, {"scale_targets": None}])
def test_settings_of_which_all_is_a_comment_are_the_built_in_ones(helm: Helm, settings: object) -> None:
    """`settings:` with nothing below it is null in YAML."""
    assert "WARNING: no Prometheus server is set" in notes(helm, {"settings": settings})


def test_the_defaults_in_the_comments_are_those_of_the_operator() -> None:
    text = (CHART / "values.yaml").read_text()
    shown = {
        name: yaml.safe_load(value)
        for name, value in re.findall(r"^  # (\w+): (\S+) +# ", text, re.MULTILINE)
    }
    built_in = {
        name: field.default
        for name, field in Settings.model_fields.items()
        if name not in CHARTS_OWN | {"sources", "presets", "scale_targets"}
    }
    assert {**shown, "log_level": "INFO"} == built_in
    assert "# log_level: INFO" in text


def paths(
    values: Mapping[str, Any], schema: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Every value that the schema names, as `a.b`, with its default."""
    for name, part in schema["properties"].items():
        if name == "global":
            continue
        value = values[name] if not prefix.startswith("settings") else values.get(name)
        if part.get("additionalProperties") is False and "properties" in part and name != "resources":
            yield from paths(value, part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_the_readme_names_every_value_with_its_default(
    values: dict[str, Any], schema: dict[str, Any]
) -> None:
    rows = dict(
        re.findall(r"^\| `([\w.]+)` \| `?([^|]*?)`? \|", (CHART / "README.md").read_text(), re.MULTILINE)
    )
    wanted = {}
    for path, value in paths(values, schema):
        if path.startswith("settings.") and path not in (
            "settings.sources",
            "settings.presets",
            "settings.scale_targets",
        ):
            continue  # docs/api.md has those
        long = path.endswith("resources") or path == "emulator.inventory"
        wanted[path] = "see values.yaml" if long else json.dumps(value)
    assert rows == wanted


def test_every_value_has_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    inventory = lines.index("  inventory:")
    end = next(i for i, line in enumerate(lines) if line.startswith("  # -- More options of `weft emulator`"))
    named = 0
    for number, line in enumerate(lines):
        if not re.match(r"^(  )?\w+:( |$)", line) or inventory < number < end:
            continue
        if re.match(r"^\w+:$", line):  # a section, or a value whose parts stand below it
            continue
        if lines[number - 1].startswith("    ") or line.strip() in ("requests:", "limits:"):
            continue
        assert lines[number - 1].lstrip().startswith("#"), f"values.yaml:{number + 1}: {line}"
        named += 1
    assert named > 25


def test_the_default_rack_is_one_that_the_emulator_takes(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    file.write_text(yaml.safe_dump(values["emulator"]["inventory"]))
    world = load_inventory(file)
    assert len(world.hosts) == 4


def test_the_fabrics_of_the_kind_example_are_at_the_emulators_that_its_values_install(
    helm: Helm, tmp_path: Path
) -> None:
    objects = helm.render(yaml.safe_load(VALUES.read_text()))
    bodies = list(yaml.safe_load_all((VALUES.parent / "20-fabric.yaml").read_text()))
    served = {}
    for fabric in (each["spec"] for each in bodies if each["kind"] == "Fabric"):
        name = fabric["endpoint"].removeprefix("https://").removesuffix(f".{NAMESPACE}.svc")
        (container,) = find(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        assert find(objects, "Service", name)
        assert find(objects, "Secret", fabric["tls"]["caSecretRef"]["name"])
        inventory = tmp_path / f"{name}.yaml"
        inventory.write_text(find(objects, "ConfigMap", name)["data"]["inventory.yaml"])
        world = load_inventory(inventory)
        assert {each["host"] for each in fabric["hosts"]} <= world.hosts.keys()
        served[name] = ({each.type for each in world.devices.values()}, container["args"][-1])
    assert served == {
        "weft-emulator": ({"GPU"}, "--journal=/var/lib/weft-emulator/journal.jsonl"),
        "weft-emulator-memory": ({"CXL"}, "--dialect=connections"),
    }
    assert served.keys() == {f"weft-{name}" for name in EMULATORS}, "whose journals are read"


def test_the_example_prometheus_scrapes_the_operators_pods_and_keeps_the_namespaces_that_they_speak_of(
    helm: Helm,
) -> None:
    documents = yaml.safe_load_all(PROMETHEUS.read_text())
    config = next(one for one in documents if one["kind"] == "ConfigMap")["data"]["prometheus.yml"]
    (job,) = (one for one in yaml.safe_load(config)["scrape_configs"] if one["job_name"] == "weft")
    template = find(helm.render(), "Deployment", "weft")["spec"]["template"]
    found = {
        f"__meta_kubernetes_pod_label_{re.sub('[^a-z]', '_', name)}": value
        for name, value in template["metadata"]["labels"].items()
    }
    found["__meta_kubernetes_pod_container_port_name"] = template["spec"]["containers"][0]["ports"][0]["name"]
    kept = [rule for rule in job["relabel_configs"] if rule.get("action") == "keep"]
    assert [found.get(*rule["source_labels"]) for rule in kept] == [rule["regex"] for rule in kept] != []
    assert job["honor_labels"] is True


def notes(helm: Helm, values: Mapping[str, Any]) -> str:
    """What `helm install` would print at its end."""
    done = helm.install_dry_run(values)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:\n")[2]


def test_the_notes_lead_to_a_logical_node_on_the_emulator(helm: Helm) -> None:
    text = notes(helm, {"emulator": {"enabled": True}})
    assert "helm test weft -n weft-system" in text
    assert "endpoint: https://weft-emulator.weft-system\n" in text
    # As a shell reads it: the end marker stands alone.
    blocks = re.findall(r"^kubectl apply -f - <<'YAML'\n(.*?)\nYAML$", text, re.DOTALL | re.MULTILINE)
    bodies = [body for block in blocks for body in yaml.safe_load_all(block)]
    fabric, pool, node = bodies
    assert [each.host for each in Fabric.model_validate(fabric).spec.hosts] == ["sled-0"]
    assert fabric["metadata"]["name"] == "emulated"
    assert GPUPool.model_validate(pool).spec.fabric_ref.name == "emulated"
    assert LogicalNode.model_validate(node).metadata.name == "first"


def test_the_notes_say_where_each_further_emulator_is(helm: Helm) -> None:
    text = notes(helm, yaml.safe_load(VALUES.read_text()))
    assert (
        "https://weft-emulator-memory.weft-system, its CA is in the Secret weft-emulator-memory-tls." in text
    )


def test_the_notes_name_a_fabric_that_kubernetes_takes_whatever_the_rack_is_called(helm: Helm) -> None:
    text = notes(helm, {"emulator": {"enabled": True, "inventory": {"name": "My rack #2"}}})
    assert text.count("name: my-rack-2") == 2


def test_the_notes_warn_when_no_prometheus_is_set_and_only_then(helm: Helm) -> None:
    assert "WARNING: no Prometheus server is set" in notes(helm, {})
    sources = {"default": {"url": "http://prometheus:9090"}}
    assert "WARNING" not in notes(helm, {"settings": {"sources": sources}})


def test_the_notes_say_what_uninstalling_keeps(helm: Helm) -> None:
    assert "keeps Weft's definitions and objects" in notes(helm, {})
    assert "refuses while objects hold hardware" in notes(helm, {"crds": {"keep": False}})

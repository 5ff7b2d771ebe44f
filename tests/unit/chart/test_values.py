"""values.yaml, its schema, the notes and the README say the same thing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import CHART, Helm
from weft.api import Fabric, GPUPool, LogicalNode
from weft.balancing.settings import PresetSettings, SourceSettings
from weft.emulator.inventory import load as load_inventory
from weft.runtime.settings import Settings

CHARTS_OWN = {"namespace", "identity", "health_host", "health_port"}
"""Settings that follow from the pod: the chart sets them, a user cannot."""


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
        ({"settings": {"namespace": "a"}}, "additional properties 'namespace' not allowed"),
        ({"settings": {"sources": {"default": {}}}}, "missing property 'url'"),
        ({"settings": {"sources": {"default": {"url": "prometheus:9090"}}}}, "does not match pattern"),
        ({"settings": {"log_level": "info"}}, "'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
        ({"emulator": {"inventory": {"name": None}}}, "/emulator/inventory"),
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
    assert set(settings["sources"]["additionalProperties"]["properties"]) == set(SourceSettings.model_fields)
    assert set(settings["presets"]["additionalProperties"]["properties"]) == set(PresetSettings.model_fields)


def test_the_defaults_in_the_comments_are_those_of_the_operator() -> None:
    text = (CHART / "values.yaml").read_text()
    shown = {
        name: yaml.safe_load(value)
        for name, value in re.findall(r"^  # (\w+): (\S+) +# ", text, re.MULTILINE)
    }
    built_in = {
        name: field.default
        for name, field in Settings.model_fields.items()
        if name not in CHARTS_OWN | {"sources", "presets"}
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
        if part.get("additionalProperties") is False and name != "resources":
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
        if path.startswith("settings.") and path not in ("settings.sources", "settings.presets"):
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


def notes(helm: Helm, values: Mapping[str, Any]) -> str:
    """What `helm install` would print at its end."""
    flags = ["install", "weft", str(CHART), "--namespace", "weft-system", "--dry-run=client"]
    for name, value in values.items():
        flags += ["--set", f"{name}={value}"]
    done = helm.run(*flags)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:\n")[2]


def test_the_notes_lead_to_a_logical_node_on_the_emulator(helm: Helm) -> None:
    text = notes(helm, {"emulator.enabled": "true"})
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


def test_the_notes_warn_when_no_prometheus_is_set_and_only_then(helm: Helm) -> None:
    assert "WARNING: no Prometheus server is set" in notes(helm, {})
    url = "settings.sources.default.url"
    assert "WARNING" not in notes(helm, {url: "http://prometheus:9090"})


def test_the_notes_say_what_uninstalling_keeps(helm: Helm) -> None:
    assert "keeps Weft's definitions and objects" in notes(helm, {})
    assert "refuses while objects hold hardware" in notes(helm, {"crds.keep": "false"})

"""Renders charts/weft as `helm install` would, and finds things in what comes out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

# The chart's output is long; the loader in C, where there is one, takes a tenth of the time.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CHART = Path(__file__).resolve().parents[2] / "charts" / "weft"
RELEASE, NAMESPACE = "weft", "weft-system"


class Helm:
    """The helm program, with folders of its own; without a kubeconfig it finds no cluster."""

    def __init__(self, program: Path, directory: Path, kubeconfig: Path | None = None) -> None:
        self._program = program
        self._kubeconfig = kubeconfig or directory / "none"
        self._directory = directory
        self._calls = 0

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        folder = str(self._directory)
        homes = {f"HELM_{name}_HOME": folder for name in ("CACHE", "CONFIG", "DATA")}
        return subprocess.run(
            [self._program, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={"HOME": folder, "PATH": "/usr/bin:/bin", "KUBECONFIG": str(self._kubeconfig), **homes},
        )

    def template(
        self,
        values: Mapping[str, Any] | None = None,
        *flags: str,
        release: str = RELEASE,
        namespace: str = NAMESPACE,
    ) -> subprocess.CompletedProcess[str]:
        """`helm template` with these values, whatever its outcome."""
        file = self._values(values or {})
        return self.run("template", release, CHART, "--namespace", namespace, "--values", file, *flags)

    def install_dry_run(self, values: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        """What `helm install` would print, notes included, without a cluster."""
        file = self._values(values)
        return self.run(
            "install", RELEASE, CHART, "--namespace", NAMESPACE, "--dry-run=client", "--values", file
        )

    def _values(self, values: Mapping[str, Any]) -> Path:
        self._calls += 1
        file = self._directory / f"values-{self._calls}.yaml"
        file.write_text(yaml.safe_dump(dict(values)))
        return file

    def render(
        self,
        values: Mapping[str, Any] | None = None,
        *flags: str,
        release: str = RELEASE,
        namespace: str = NAMESPACE,
    ) -> list[Object]:
        """Every object of the chart, hooks included; fails the test when helm refuses."""
        done = self.template(values, *flags, release=release, namespace=namespace)
        assert done.returncode == 0, done.stderr
        return [body for body in yaml.load_all(done.stdout, _Loader) if body]


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def pod_templates(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """(kind/name, {metadata, spec}) of every pod that the objects make."""
    for each in objects:
        label = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            yield label, {"metadata": each["metadata"], "spec": each["spec"]}
        elif "template" in each.get("spec", {}):
            yield label, each["spec"]["template"]

"""The driver of docs/examples/driver, installed as a package of its own, binds devices of what is no Redfish."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.world import World, eventually, reason
from weft.api.resources import FABRICS
from weft_dev.controlplane import ControlPlane

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "driver"


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=2, gpus=0, memories=0)
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip put the example; processes started from here find it."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", site, source], check=True, timeout=60
    )
    path = [str(site), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return site


def test_a_driver_that_was_installed_beside_weft_binds_and_releases(
    world: World, installed: Path, tmp_path: Path
) -> None:
    about = {"kind": "Accelerator", "bytes": 2**36, "attributes": {"type": "GPU", "model": "A100-80GB"}}
    rack = {"hosts": world.hosts, "devices": {f"gpu-{n}": about for n in range(2)}, "attached": {}}
    file = tmp_path / "rack.json"
    file.write_text(json.dumps(rack))

    def attached() -> dict[str, str]:
        found: dict[str, str] = json.loads(file.read_text())["attached"]
        return found

    world.create(driver="no-such", endpoint=file.as_uri())
    world.start_operator()

    def fabric() -> dict[str, object]:
        return world.kube.get(FABRICS, world.name) or {}

    eventually(lambda: reason(fabric(), "Connected") == "DriverNotFound", what="the driver is missed")
    assert "installed: json-file, redfish" in str(fabric()["status"])
    world.kube.patch(FABRICS, world.name, {"spec": {"driver": "json-file"}})
    world.logical_node("trainer", memory="")
    eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
    assert sorted(attached()) == ["gpu-0", "gpu-1"]
    assert set(attached().values()) == {world.get("trainer")["status"]["host"]}  # type: ignore[index]
    assert fabric()["status"]["writes"] == ["JsonFile"]  # type: ignore[index]
    world.delete("trainer")
    eventually(lambda: world.get("trainer") is None, what="trainer is gone")
    assert attached() == {}

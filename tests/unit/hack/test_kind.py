"""The kind cluster's parts that decide: what makes a node image another one, what a node has, whether it works."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from weft_dev.kind import archive, configuration, health, loading, node_image, nodes

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_every_part_of_the_inputs_makes_another_node_image() -> None:
    digests = [
        node_image.digest_of([("entrypoint", b"one")], ["kubelet 1.37.1"]),
        node_image.digest_of([("entrypoint", b"two")], ["kubelet 1.37.1"]),
        node_image.digest_of([("guard", b"one")], ["kubelet 1.37.1"]),
        node_image.digest_of([("entrypoint", b"one")], ["kubelet 1.37.2"]),
        node_image.digest_of([("entrypoint", b"one")], ["kubelet", "1.37.1"]),
        node_image.digest_of([("entrypoint", b"on")], ["ekubelet 1.37.1"]),
    ]
    assert len(set(digests)) == len(digests)


def test_the_same_inputs_make_the_same_node_image() -> None:
    assert node_image.inputs_hash() == node_image.inputs_hash()


def test_images_that_kubeadm_requires_are_found_by_their_program() -> None:
    names = ["registry.k8s.io/kube-apiserver:v1.37.1", "registry.k8s.io/coredns/coredns:v1.14.6"]
    assert node_image.image_names(names) == {"kube-apiserver": names[0], "coredns": names[1]}


def test_an_archive_has_an_image_of_each_program_that_starts_it(tmp_path: Path) -> None:
    images = []
    for name in ("etcd", "pause"):
        (tmp_path / name).write_text(f"the program {name}")
        images.append(archive.ProgramImage(f"registry.example/{name}:1", tmp_path / name))
    archive.write_archive(tmp_path / "images.tar", images, "arm64")
    with tarfile.open(tmp_path / "images.tar") as packed:
        content = {member.name: packed.extractfile(member) for member in packed}
        data = {name: file.read() for name, file in content.items() if file}
    manifest = json.loads(data["manifest.json"])
    assert [entry["RepoTags"] for entry in manifest] == [
        ["registry.example/etcd:1"],
        ["registry.example/pause:1"],
    ]
    configuration = json.loads(data[manifest[1]["Config"]])
    assert configuration["architecture"] == "arm64"
    (start,) = configuration["config"]["Entrypoint"]
    with tarfile.open(fileobj=io.BytesIO(data[manifest[1]["Layers"][0]])) as layer:
        program = layer.extractfile(start.lstrip("/"))
        assert program is not None
        assert program.read() == b"the program pause"
        assert layer.getmember(start.lstrip("/")).mode == 0o755


def test_the_same_programs_make_the_same_archive(tmp_path: Path) -> None:
    archives = []
    for number in (1, 2):
        (tmp_path / f"{number}").mkdir()
        program = tmp_path / f"{number}" / "pause"
        program.write_text("the program")
        archive.write_archive(tmp_path / "out.tar", [archive.ProgramImage("pause:1", program)], "amd64")
        archives.append((tmp_path / "out.tar").read_bytes())
    assert archives[0] == archives[1]


def kubelet_settings(image: str) -> dict[str, Any]:
    (patch,) = json.loads(configuration.configuration(image))["kubeadmConfigPatches"]
    settings: dict[str, Any] = json.loads(patch)
    return settings


def test_both_node_images_get_the_same_cluster_and_each_its_kubelet_settings() -> None:
    own, official = (
        json.loads(configuration.configuration(image))
        for image in ("weft-node:1", configuration.OFFICIAL_IMAGE)
    )
    assert [node["role"] for node in own["nodes"]] == ["control-plane", "worker", "worker"]
    assert own["networking"] == official["networking"]
    assert kubelet_settings("weft-node:1")["resolvConf"] == "/run/kubelet/resolv.conf"
    assert "resolvConf" not in kubelet_settings(configuration.OFFICIAL_IMAGE)


def test_the_entrypoint_guards_the_ranges_that_the_cluster_has() -> None:
    (line,) = (
        line
        for line in (node_image.FILES / "node" / "entrypoint").read_text().splitlines()
        if "pods=" in line
    )
    assert f"pods={configuration.POD_RANGE} services={configuration.SERVICE_RANGE}" in line


def test_the_pod_network_asks_for_the_image_that_is_in_the_nodes() -> None:
    assert node_image.PODNET_IMAGE in (node_image.FILES / "node" / "default-cni.yaml").read_text()


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("weft:dev", "docker.io/library/weft:dev"),
        ("weft", "docker.io/library/weft:latest"),
        ("prom/prometheus:v3", "docker.io/prom/prometheus:v3"),
        ("registry.example/a/b", "registry.example/a/b:latest"),
        ("localhost/weft:dev", "localhost/weft:dev"),
        ("registry.example:5000/weft", "registry.example:5000/weft:latest"),
    ],
)
def test_an_image_has_the_name_that_the_node_calls_it(image: str, name: str) -> None:
    assert loading.full_name(image) == name


LISTING = """REF TYPE DIGEST SIZE PLATFORMS LABELS
docker.io/library/weft:dev application/vnd.oci.image.manifest.v1+json sha256:manifest 9 MiB linux/amd64 -
sha256:new application/vnd.oci.image.manifest.v1+json sha256:manifest 9 MiB linux/amd64 -
sha256:old application/vnd.oci.image.manifest.v1+json sha256:other 9 MiB linux/amd64 -
"""


@pytest.mark.parametrize(
    ("image", "image_id", "there"),
    [
        ("weft:dev", "sha256:new", True),
        ("weft:dev", "sha256:old", False),  # in the node, and the name is another image's there
        ("weft:dev", "sha256:unknown", False),
        ("other:dev", "sha256:new", False),
        ("weft:dev", "sha256:manifest", True),  # an engine that calls images by their manifest
    ],
)
def test_a_node_has_an_image_when_the_name_stands_for_the_same_one(
    image: str, image_id: str, there: bool
) -> None:
    assert loading.has(LISTING, image, image_id) is there


def lease(name: str, renewed: datetime) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"renewTime": renewed.isoformat()}}


@pytest.mark.parametrize(
    ("age_seconds", "running_seconds", "late"),
    [
        (5, 600, False),
        (60, 600, True),  # its kubelet does not work
        (5, 3, True),  # from before the node was started
    ],
)
def test_a_node_counts_once_it_is_heard_of_after_its_start(
    age_seconds: int, running_seconds: int, late: bool
) -> None:
    leases = [lease("weft-worker", NOW - timedelta(seconds=age_seconds))]
    started = {"weft-worker": NOW - timedelta(seconds=running_seconds)}
    assert health.unrenewed(leases, started, NOW) == ("weft-worker is not heard of" if late else "")


def test_a_node_without_a_lease_is_not_heard_of() -> None:
    assert health.unrenewed([], {"weft-worker": NOW}, NOW) == "weft-worker is not heard of"


def pod(*, ready: bool = True, started: datetime = NOW, **metadata: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "coredns", **metadata},
        "spec": {"nodeName": "weft-worker"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"state": {"running": {"startedAt": started.isoformat()}}}],
        },
    }


def test_a_pod_counts_once_its_containers_run_after_the_start_of_its_node() -> None:
    started = {"weft-worker": NOW}
    hour = timedelta(hours=1)
    assert health.unready([pod()], started) == ""
    assert health.unready([pod(started=NOW + hour)], started) == ""
    assert health.unready([pod(started=NOW - hour)], started) == "not ready: coredns"
    assert health.unready([pod(ready=False)], started) == "not ready: coredns"
    assert health.unready([{**pod(), "spec": {}}], started) == "not ready: coredns"


def test_a_pod_that_is_being_deleted_is_not_waited_for() -> None:
    assert health.unready([pod(ready=False, deletionTimestamp=NOW.isoformat())], {"weft-worker": NOW}) == ""


def test_a_node_is_read_as_the_engine_describes_its_container() -> None:
    container = {
        "Name": "/weft-worker",
        "Image": "sha256:1",
        "State": {"Running": True, "Paused": False, "StartedAt": "2026-01-01T12:00:00.123456789Z"},
        "NetworkSettings": {"Networks": {"kind": {"IPAddress": "172.18.0.3"}}},
    }
    found = nodes.parse(container)
    assert (found.name, found.running, found.address) == ("weft-worker", True, "172.18.0.3")
    assert found.started == NOW + timedelta(microseconds=123456)
    paused = {**container, "State": {**container["State"], "Paused": True}}  # type: ignore[dict-item]
    assert not nodes.parse(paused).running

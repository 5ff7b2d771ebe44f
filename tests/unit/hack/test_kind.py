"""The kind cluster's parts that decide: what makes a node image another one, what a node has, whether it works."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from weft_dev.containers import ContainerError
from weft_dev.kind import cluster, configuration, health, loading, nodes
from weft_offline import archive, node_image

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
    (line,) = (line for line in (node_image.FILES / "entrypoint").read_text().splitlines() if "pods=" in line)
    assert f"pods={configuration.POD_RANGE} services={configuration.SERVICE_RANGE}" in line


def test_the_pod_network_asks_for_the_image_that_is_in_the_nodes() -> None:
    assert node_image.PODNET_IMAGE in (node_image.FILES / "default-cni.yaml").read_text()


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
        "Config": {"Labels": {"dev.weft.part": "node"}},
        "State": {"Running": True, "Paused": False, "StartedAt": "2026-01-01T12:00:00.123456789Z"},
        "NetworkSettings": {"Networks": {"kind": {"IPAddress": "172.18.0.3"}}},
    }
    found = nodes.parse(container)
    assert (found.name, found.running, found.address) == ("weft-worker", True, "172.18.0.3")
    assert found.started == NOW + timedelta(microseconds=123456)
    assert found.own_image
    paused = {**container, "State": {**container["State"], "Paused": True}}  # type: ignore[dict-item]
    assert not nodes.parse(paused).running


# An engine: what it is asked is written down. It has a cluster, marked as Weft's or not, and what is in `network`.
ENGINE = """#!/bin/sh
echo "$@" >>{folder}/asked
case "$*" in
version*) echo 20.10.24 ;;
"ps --all --filter label=io.x-k8s.kind.cluster=weft"*) cat {folder}/nodes ;;
"ps --all --quiet --filter network=kind") cat {folder}/network ;;
inspect*) cat {folder}/inspected ;;
cp*) cat {folder}/mark ;;
"image list"*) printf '%s\\n' "weft dev" "weft 0.2.0" "weft-demo dev" "kindest/node v1.30.0" "python 3.13-slim" ;;
"image inspect"*) exit 1 ;;
esac
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretended Docker with a cluster weft of somebody's; returns the folder with what it has and was asked."""
    container = {
        "Name": "/weft-control-plane",
        "Image": "sha256:1",
        "Config": {"Labels": None},
        "State": {"Running": True, "Paused": False, "StartedAt": "2026-01-01T12:00:00.1Z"},
        "NetworkSettings": {"Networks": {}},
    }
    (tmp_path / "inspected").write_text(json.dumps([container]))
    (tmp_path / "nodes").write_text("weft-control-plane\n")
    (tmp_path / "network").touch()
    for name, script in (("docker", ENGINE), ("kind", KIND)):
        (tmp_path / name).write_text(script.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cluster.tools, "provide", lambda names: {name: tmp_path / name for name in names})
    return tmp_path


KIND = """#!/bin/sh
echo kind "$@" >>{folder}/asked
env >{folder}/environment
"""


def asked(engine: Path) -> list[str]:
    return (engine / "asked").read_text().splitlines()


def test_a_cluster_of_the_same_name_that_somebody_else_made_is_left_alone(engine: Path) -> None:
    for act in (cluster.down, lambda: cluster._check_ours(nodes.find())):
        with pytest.raises(ContainerError, match="weft that Weft did not make"):
            act()
    assert not [line for line in asked(engine) if line.startswith(("kind", "rm", "network", "rmi"))]


def test_a_cluster_that_was_never_completed_is_removed_by_whoever_began_it(engine: Path) -> None:
    begun = cluster._begun()
    begun.parent.mkdir(parents=True)
    begun.touch()
    cluster.down(lambda line: None, keep_images=True)
    (line,) = (line for line in asked(engine) if line.startswith("kind"))
    assert line.startswith("kind delete cluster --name=weft ")
    assert not begun.exists()


def test_going_down_takes_what_weft_made_and_nothing_else(engine: Path) -> None:
    (engine / "nodes").write_text("")
    (engine / "network").write_text("a stopped node of another cluster\n")
    cluster.down(lambda line: None)
    assert [line for line in asked(engine) if line.startswith(("rmi", "network"))] == [
        "rmi weft:dev",
        "rmi weft-demo:dev",
    ]
    (engine / "network").write_text("")
    cluster.down(lambda line: None)
    assert "network rm kind" in asked(engine)


def test_kind_works_on_no_cluster_but_wefts(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIND_CLUSTER_NAME", "mine")
    monkeypatch.setenv("KIND_EXPERIMENTAL_DOCKER_NETWORK", "mine")
    stale = engine / "cache" / "weft" / "kind" / "kubeconfig.lock"
    stale.parent.mkdir(parents=True)
    stale.touch()
    for command in ("create", "export", "delete"):
        cluster._kind(engine / "kind", command, timeout_seconds=10)
        assert asked(engine)[-1] == f"kind {command} --name=weft --kubeconfig={stale.with_suffix('')}"
        assert "mine" not in (engine / "environment").read_text()
    assert not stale.exists(), "kind takes it for another kind that is at work"


NODE = """#!/bin/sh
echo "$@" >>{folder}/asked
case "$*" in
"image inspect"*) echo sha256:1 ;;
*" list") echo REF ;;
*--all-platforms*) cat >/dev/null; echo "ctr: content digest sha256:2: not found"; exit 1 ;;
*import*) cat >{folder}/imported ;;
save*) echo "the images" ;;
esac
"""


def test_an_image_of_one_platform_in_a_list_of_many_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text(NODE.format(folder=tmp_path))
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert loading.load(["prom/prometheus:v3"], ["weft-worker"]) == ["prom/prometheus:v3"]
    assert (tmp_path / "imported").read_text() == "the images\n"

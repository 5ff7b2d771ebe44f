"""What is put into a kind cluster beside the chart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest

from weft_dev import kind_site
from weft_dev.commands import Kubectl, Release
from weft_dev.containers import ContainerError
from weft_dev.images import Images
from weft_dev.kind.cluster import KindCluster
from weft_dev.kind_site import KindSite, router_objects
from weft_dev.kube import Kube
from weft_dev.tools import ToolError


def test_a_router_follows_the_group_of_its_own_namespace() -> None:
    objects = router_objects("team", "llama")
    assert {each["metadata"]["namespace"] for each in objects} == {"team"}
    (binding,) = (each for each in objects if each["kind"] == "RoleBinding")
    assert [subject["namespace"] for subject in binding["subjects"]] == ["team"]
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert "team/llama=8000" in container["args"]
    assert not any("demo/" in argument for argument in container["args"])


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def site_with(folder: Path, kubectl: str, helm: str = "exit 0") -> KindSite:
    """A site whose commands are these scripts; there is no cluster."""
    commands = program(folder, "kubectl", kubectl), program(folder, "helm", helm)
    return KindSite(
        cluster=KindCluster(folder / "kubeconfig", commands[0]),
        images=Images("weft:dev", "weft-demo:dev", "weft-prometheus:dev"),
        kube=cast(Kube, None),
        kubectl=Kubectl(commands[0], folder / "kubeconfig"),
        release=Release(commands[1], folder / "kubeconfig"),
    )


def test_neither_settings_nor_caches_of_the_user_get_to_kubectl_and_helm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/home/user/.kube/config")
    monkeypatch.setenv("HELM_KUBEAPISERVER", "https://production.example")
    monkeypatch.setenv("HELM_KUBECONTEXT", "production")
    site = site_with(tmp_path, "env", "env")
    for printed in (site.kubectl("delete"), site.release.uninstall()):
        assert "production" not in printed
        assert f"KUBECONFIG={tmp_path}/kubeconfig\n" in printed
        assert "KUBERC=off\n" in printed
        assert f"KUBECACHEDIR={tmp_path}" in printed


def test_a_cluster_is_cleaned_without_asking_pods_that_may_not_start(tmp_path: Path) -> None:
    note = f'echo "$(basename $0) $@ with $KUBECONFIG" >>{tmp_path}/asked'
    site_with(tmp_path, note, note).clean("team")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert all(line.endswith(f" with {tmp_path}/kubeconfig") for line in asked)
    deleted = [" ".join(line.split()[1:4]) for line in asked if line.startswith(("kubectl delete", "helm"))]
    assert deleted == [
        "uninstall weft --wait",
        "delete namespace weft-system",
        "delete clusterrole,clusterrolebinding weft-example-prometheus",
        "delete clusterrole,clusterrolebinding --selector=app.kubernetes.io/name=weft",
    ]
    assert "--no-hooks" in next(line for line in asked if line.startswith("helm"))
    assert " team " in next(line for line in asked if "delete namespace" in line)


def test_evidence_is_collected_also_when_the_api_server_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "docker", 'echo "$2: the kubelet stopped"')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    site_with(tmp_path, "echo connection refused >&2; exit 1").collect(tmp_path / "evidence")
    collected = {path.name: path.read_text() for path in (tmp_path / "evidence").iterdir()}
    assert "connection refused" in collected["summary.txt"]
    assert "weft-worker: the kubelet stopped" in collected["weft-worker.journal.txt"]


def test_two_runs_do_not_share_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with (
        kind_site.reserved(),
        pytest.raises(ContainerError, match="has the cluster already"),
        kind_site.reserved(),
    ):
        pass
    with kind_site.reserved(), pytest.raises(ContainerError), kind_site.reserved(shared=True):
        pass
    with kind_site.reserved(shared=True), kind_site.reserved(shared=True):
        pass


def test_a_cluster_takes_no_tools_of_which_a_node_image_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def provide(names: Iterable[str]) -> dict[str, Path]:
        asked.extend(names)
        raise ToolError("enough is known")

    monkeypatch.setattr(kind_site.tools, "provide", provide)
    with pytest.raises(ToolError):
        kind_site.prepare(lambda line: None)
    assert sorted(asked) == ["helm", "kind", "kubectl"]


def test_what_a_shell_is_told_to_do_works_where_the_cache_has_a_space_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a cache"
    folder.mkdir()
    steps = kind_site.next_steps(site_with(folder, 'echo "kubectl of $KUBECONFIG"', "echo helm"))
    script = f"shopt -s expand_aliases\n{steps.partition('docs/')[0]}\nkubectl\nhelm\n"
    shell = ["bash", "--norc", "-c", script]
    done = subprocess.run(shell, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == f"kubectl of {folder}/kubeconfig\nhelm\n"

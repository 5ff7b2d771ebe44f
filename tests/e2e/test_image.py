"""The images as a cluster runs them: small, without privileges, on a read-only root filesystem."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from weft import __version__
from weft.api import crd
from weft_dev import images as weft_images
from weft_dev.containers import ContainerError, docker
from weft_dev.images import Images
from weft_dev.images.engine import inspect
from weft_offline.base_image import over_base_bytes

INVENTORY = Path(__file__).resolve().parents[2] / "docs" / "examples" / "emulator" / "rack-a.yaml"
LIMIT_BYTES = 120_000_000
WAIT_SECONDS = 60.0
# What a pod of the namespace standard "restricted" may do, and less: it has no network but loopback.
RESTRICTED = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
)


def run(image: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    return docker("run", "--rm", *RESTRICTED, *options, image, *arguments)


def eventually(what: Callable[[], str]) -> str:
    """What a command prints once it works and prints something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if printed := what():
                return printed
        except ContainerError:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "nothing was printed"
        time.sleep(0.2)


@contextlib.contextmanager
def started(image: str, *arguments: str, options: tuple[str, ...] = ()) -> Iterator[str]:
    """A container in the background; yields its id."""
    # By the label `make kind-down` finds what a run that was killed left.
    container = docker(
        "run", "--detach", "--label=dev.weft.part=test", *RESTRICTED, *options, image, *arguments
    ).strip()
    try:
        yield container
    finally:
        docker("rm", "--force", container)


def log(container: str) -> str:
    """What it has printed so far, on both of its streams."""
    done = subprocess.run(
        ["docker", "logs", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return done.stdout


def test_the_operator_adds_at_most_120_megabytes_to_its_base(images: Images) -> None:
    assert 0 < over_base_bytes(images.operator) <= LIMIT_BYTES


def test_the_user_is_a_number_so_that_the_kubelet_can_see_that_it_is_not_root(images: Images) -> None:
    for image in (images.operator, images.demo):
        found = inspect(image)
        assert found is not None
        assert found["Config"]["User"] == "65532:65532"


def test_labels_say_what_the_image_is_and_of_which_version(images: Images) -> None:
    found = inspect(images.operator)
    assert found is not None
    labels = {name.rpartition(".")[2]: value for name, value in found["Config"]["Labels"].items()}
    assert labels["title"] == "Weft"
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert {"description", "revision", "created", "source"} <= labels.keys()


def test_the_history_has_no_addresses(images: Images) -> None:
    for image in (images.operator, images.demo):
        history = docker("history", "--no-trunc", "--format={{.CreatedBy}}", image)
        assert "COPY" in history
        assert "://" not in history


def test_the_command_works_without_anything_that_can_be_written(images: Images) -> None:
    assert run(images.operator, "--version").strip() == f"weft {__version__}"
    printed = list(yaml.safe_load_all(run(images.operator, "crds")))
    assert [each["spec"]["names"]["kind"] for each in printed] == [
        yaml.safe_load(text)["spec"]["names"]["kind"] for _, text in sorted(crd.manifests().items())
    ]


def test_the_operator_says_that_it_has_no_cluster(images: Images) -> None:
    with pytest.raises(ContainerError, match="no cluster to work with"):
        run(images.operator)


def test_the_operator_ends_when_it_is_told_to_though_it_still_waits_for_the_api_server(
    images: Images, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "none",
                "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
                "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}],
                "users": [{"name": "none", "user": {"token": "none"}}],
            }
        )
    )
    kubeconfig.chmod(0o644)
    mounted = (f"--volume={kubeconfig}:/kubeconfig:ro", "--env=KUBECONFIG=/kubeconfig")
    with started(images.operator, options=mounted) as container:
        eventually(lambda: "yes" if "cannot list yet" in log(container) else "")
        docker("stop", "--time=30", container)
        assert docker("inspect", "--format={{.State.ExitCode}}", container).strip() == "0"


def test_neither_pip_nor_tests_are_shipped(images: Images) -> None:
    listing = (
        "import json, pathlib, sysconfig; p = pathlib.Path(sysconfig.get_path('purelib'));"
        "print(json.dumps([str(f.relative_to(p)) for f in p.rglob('*')]))"
    )
    shipped = json.loads(run(images.operator, "-c", listing, options=("--entrypoint=python",)))
    assert "weft/cli/main.py" in shipped
    assert not [path for path in shipped if path.split("/")[0] in ("pip", "setuptools", "hatchling")]
    assert not [path for path in shipped if "tests" in path.split("/")]


def test_the_emulator_serves_and_ends_when_it_is_told_to(images: Images) -> None:
    inventory = f"--volume={INVENTORY}:/inventory.yaml:ro"
    command = ("emulator", "--inventory=/inventory.yaml", "--port=8000")
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/redfish/v1/').read().decode())"
    with started(images.operator, *command, options=(inventory,)) as container:
        root = json.loads(eventually(lambda: docker("exec", container, "python", "-c", ask)))
        assert root["@odata.id"] == "/redfish/v1/"
        docker("stop", "--time=30", container)
        # 137 would be the kill after those 30 seconds.
        assert docker("inspect", "--format={{.State.ExitCode}}", container).strip() == "0"


@pytest.mark.parametrize("module", ["weft_playground.engine_pod", "weft_playground.gateway"])
def test_the_demo_image_has_all_that_its_programs_import(images: Images, module: str) -> None:
    assert "usage:" in run(images.demo, "-m", module, "--help")


def test_prometheus_starts_with_a_mounted_configuration_that_discovers_pods(
    images: Images, tmp_path: Path
) -> None:
    configuration = tmp_path / "prometheus.yml"
    discovery = {"role": "pod", "api_server": "http://127.0.0.1:9"}
    configuration.write_text(
        yaml.safe_dump({"scrape_configs": [{"job_name": "pods", "kubernetes_sd_configs": [discovery]}]})
    )
    configuration.chmod(0o644)
    mounts = (
        f"--volume={configuration}:/etc/prometheus/prometheus.yml:ro",
        "--tmpfs=/prometheus:uid=65534",
    )
    found = inspect(images.prometheus)
    assert found is not None
    assert found["Config"]["User"] not in ("", "0", "root")
    with started(images.prometheus, options=mounts) as container:
        eventually(lambda: "yes" if "ready to receive web requests" in log(container) else "")


def test_an_unchanged_tree_builds_nothing(images: Images) -> None:
    # Whatever was edited since the session began is built first.
    weft_images.build(lambda line: None)
    said: list[str] = []
    before = {image: inspect(image) for image in (images.operator, images.demo, images.prometheus)}
    assert weft_images.build(said.append) == images
    assert said == []
    assert before == {image: inspect(image) for image in before}

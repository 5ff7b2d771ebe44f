"""Fixtures of every test that needs a cluster. Unit tests use none of them and start nothing."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from support.world import World
from weft.api.resources import NAMESPACES, ResourceType
from weft.cluster import Object
from weft_dev import controlplane, tools
from weft_dev.controlplane import ControlPlane
from weft_dev.kube import Kube

# How fast the machine is must not decide a test.
hypothesis.settings.register_profile(
    "weft", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("weft")

ROOT = Path(__file__).resolve().parents[1]
SERVICE_ACCOUNTS = ResourceType("", "v1", "serviceaccounts", "ServiceAccount", True)
_numbers = itertools.count(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Which tests `pytest -n` keeps in one process, and in their order."""
    return _Suites(config, log)


BEGUN_FIRST = (
    "integration",
    "groups",
    "faults",
    "tests/unit/binding/test_schedules.py",
    "tests/integration/",
)
"""Beginnings of scopes: what takes longest. What has most tests follows, and small files fill what is left."""


class _Suites(LoadScopeScheduling):
    """Those that share a control plane, and those of one file, whose fixtures they share.

    Three have a control plane each, since each takes minutes: faults and fuzz, what has inference groups, the others.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        suite = file.removeprefix("tests/").partition("/")[0]
        if suite == "integration":
            if not _names(file, "control_plane|: Kubectl"):
                return file
            return "groups" if _names(file, "idle_group") else suite
        return "faults" if suite in ("faults", "fuzz") else file

    def _assign_work_unit(self, node: Any) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=_turn), last=False)
        super()._assign_work_unit(node)


@functools.cache
def _names(file: str, pattern: str) -> bool:
    """Whether a test of the file takes what is meant, by the file's text: here only names of tests are known."""
    return re.search(pattern, (ROOT / file).read_text()) is not None


def _turn(scope: str) -> int:
    return next((turn for turn, start in enumerate(BEGUN_FIRST) if scope.startswith(start)), len(BEGUN_FIRST))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make missing tools while the tests run that need none; `tool_paths` waits for the rest of it.

    A build that is under way when pytest ends, however it ends, ends with it.
    """
    needed = any("tool_paths" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and not session.config.option.collectonly and tools.missing():
        threading.Thread(target=_make_tools, name="tools", daemon=True).start()


def _make_tools() -> None:
    # What goes wrong is said by `tool_paths`, which tries again; pytest would capture what is printed here.
    with open(os.devnull, "w") as nowhere, contextlib.suppress(tools.ToolError):
        tools.provide(stream=nowhere)


Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tool_paths(pytestconfig: pytest.Config) -> dict[str, Path]:
    """Every tool by name; those that are missing are fetched or built first, which can take minutes."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        return tools.provide()


@pytest.fixture(scope="session")
def control_plane(tool_paths: dict[str, Path]) -> Iterator[ControlPlane]:
    """The session's control plane with Weft's CRDs installed. Cluster-scoped objects are shared by all tests."""
    with controlplane.start(binaries=tool_paths) as plane:
        controlplane.install_crds(plane.client(), (ROOT / "crds").glob("*.yaml"))
        yield plane


@pytest.fixture(scope="session")
def kube(control_plane: ControlPlane) -> Kube:
    """An administrator's client of the session's control plane. Blocking: a call takes a few milliseconds."""
    return control_plane.client()


@pytest.fixture(scope="module")
def operator(control_plane: ControlPlane, kube: Kube) -> Iterator[None]:
    """One that lives through all tests of a file: to start takes it longer than many of them."""
    name = f"operator-{next(_numbers)}"
    kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    with contextlib.closing(World(control_plane, name, hosts=0, gpus=0, memories=0)) as world:
        world.start_operator()
        yield


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    """The name of a namespace of the test's own, in which pods can be created; also a prefix for other names."""
    name = f"test-{next(_numbers)}"
    body: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    kube.create(NAMESPACES, body)
    deadline = time.monotonic() + 30
    while kube.get(SERVICE_ACCOUNTS, "default", name) is None:
        assert time.monotonic() < deadline, f"namespace {name} got no service account"
        time.sleep(0.02)
    yield name
    # The API server empties it while the next test runs.
    kube.delete(NAMESPACES, name)


@pytest.fixture
def kubectl(control_plane: ControlPlane, tool_paths: dict[str, Path], tmp_path: Path) -> Kubectl:
    """`kubectl(*arguments, stdin="", check=True)` against the session's control plane, with an empty HOME."""

    def run(*arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [tool_paths["kubectl"], f"--kubeconfig={control_plane.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done

    return run

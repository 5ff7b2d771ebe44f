"""Fixtures of the end-to-end tests: a kind cluster, created once and reused, with this clone's images."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft_dev import kind_site
from weft_dev.images import Images
from weft_dev.kind.cluster import KindCluster
from weft_dev.kind_site import KindSite

_site: list[KindSite] = []


@pytest.fixture(scope="session")
def site(pytestconfig: pytest.Config) -> Iterator[KindSite]:
    """Building and starting can take minutes the first time: what is being done is said, captured or not."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with kind_site.reserved():
        with capture.global_and_fixture_disabled():
            made = kind_site.prepare(lambda text: sys.stderr.write(f"{text}\n"))
        _site.append(made)
        yield made


@pytest.fixture(scope="session")
def kind_cluster(site: KindSite) -> KindCluster:
    return site.cluster


@pytest.fixture(scope="session")
def images(site: KindSite) -> Images:
    return site.images


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """When the first test fails, keep what the cluster looks like just then."""
    report = yield
    session = item.session
    if report.failed and _site and not getattr(session, "weft_evidence", ""):
        folder = tempfile.mkdtemp(prefix="weft-e2e-")
        session.weft_evidence = folder  # type: ignore[attr-defined]
        _site[0].collect(Path(folder))
        report.sections.append(("evidence", f"logs, events and objects: {folder}"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    folder = getattr(terminalreporter._session, "weft_evidence", "")
    if folder:
        terminalreporter.write_line(f"logs, events and objects of the first failure: {folder}", red=True)

"""`make verify` notices what has gone stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft_dev import verify


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with nothing wrong in it."""
    (tmp_path / "docs" / "examples").mkdir(parents=True)
    (tmp_path / "docs" / "examples" / "namespace.yaml").write_text(
        "{apiVersion: v1, kind: Namespace, metadata: {name: demo}}"
    )
    for lock in verify.LOCKS:
        (tmp_path / lock).write_text("kopf==1.38.0 \\\n    --hash=sha256:00\n    # via weft\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    (tmp_path / "charts" / "weft").mkdir(parents=True)
    (tmp_path / "charts" / "weft" / "Chart.yaml").write_text("{version: 0.2.0, appVersion: 0.2.0}")
    (tmp_path / "operator" / "src" / "weft").mkdir(parents=True)
    (tmp_path / "operator" / "src" / "weft" / "__init__.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [0.2.0] - 2026-01-02\n\n## [0.1.0]\n")
    return tmp_path


def all_problems(root: Path) -> list[str]:
    checks = (
        verify.bad_examples,
        verify.addresses_in_locks,
        verify.version_without_changelog,
        verify.chart_of_another_version,
        verify.package_of_another_version,
    )
    return [problem for check in checks for problem in check(root)]


def test_a_tree_in_order_passes(root: Path) -> None:
    assert all_problems(root) == []


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("docs/examples/namespace.yaml", "a: [", "docs/examples/namespace.yaml: while parsing"),
        ("docs/examples/new.yaml", "{apiVersion: weft.dev/v1alpha2, kind: Loom}", "there is no kind Loom"),
        (
            "docs/examples/new.yaml",
            "{apiVersion: weft.dev/v1alpha2, kind: Fabric, spec: {}}",
            "validation error",
        ),
        (
            "requirements.lock",
            "--index-url https://packages.example/simple\n",
            "requirements.lock:1: names where",
        ),
        ("charts/weft/Chart.yaml", "{version: 0.2.0, appVersion: 0.1.9}", "has appVersion 0.1.9"),
        ("operator/src/weft/__init__.py", '__version__ = "0.1.0"\n', "__init__.py has version 0.1.0"),
        ("CHANGELOG.md", "## [0.1.0]\n", "has version 0.2.0, the newest in CHANGELOG.md is 0.1.0"),
    ],
)
def test_what_is_wrong_is_named(root: Path, path: str, text: str, problem: str) -> None:
    (root / path).write_text(text)
    (found,) = all_problems(root)
    assert problem in found


def test_crds_that_differ_are_missing_or_left_over_are_named(tmp_path: Path) -> None:
    fresh, committed = tmp_path / "fresh", tmp_path / "crds"
    for folder, files in (
        (fresh, {"a": "1", "b": "1", "c": "1"}),
        (committed, {"a": "1", "b": "2", "d": "1"}),
    ):
        folder.mkdir()
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(text)
    assert list(verify.compare(fresh, committed, "crds")) == [
        "crds/b.yaml is stale: make generate",
        "crds/c.yaml is missing: make generate",
        "crds/d.yaml is not generated any more: make generate",
    ]

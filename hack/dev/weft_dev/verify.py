"""`make verify`: what is committed agrees with what it is made from. Changes nothing."""

from __future__ import annotations

import filecmp
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pydantic
import yaml

from weft import api
from weft_dev import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock")
CRD_FOLDERS = ("crds", "charts/weft/files/crds")


def stale_crds(root: Path) -> Iterator[str]:
    """crds/ and the chart's copy are what the models generate now."""
    with tempfile.TemporaryDirectory(prefix="weft-verify-") as directory:
        subprocess.run([Path(sys.executable).with_name("weft"), "crds", "--output", directory], check=True)
        for folder in CRD_FOLDERS:
            yield from compare(Path(directory), root / folder, folder)


def compare(fresh: Path, committed: Path, folder: str) -> Iterator[str]:
    """One line for each file that differs, is missing or is no longer generated."""
    names = sorted({path.name for folder in (fresh, committed) for path in folder.glob("*.yaml")})
    for name in names:
        if not (fresh / name).exists():
            yield f"{folder}/{name} is not generated any more: make generate"
        elif not (committed / name).exists():
            yield f"{folder}/{name} is missing: make generate"
        elif not filecmp.cmp(fresh / name, committed / name, shallow=False):
            yield f"{folder}/{name} is stale: make generate"


def bad_examples(root: Path) -> Iterator[str]:
    """Every example is YAML, and Weft's own kinds are valid for the models."""
    for path in sorted((root / "docs" / "examples").glob("**/*.yaml")):
        name = path.relative_to(root)
        try:
            documents = [body for body in yaml.safe_load_all(path.read_text()) if body]
        except yaml.YAMLError as error:
            yield f"{name}: {error}"
            continue
        if not documents:
            yield f"{name}: is empty"
        for body in documents:
            if str(body.get("apiVersion", "")).startswith("weft.dev/"):
                model = getattr(api, body["kind"], None)
                if model is None:
                    yield f"{name}: there is no kind {body['kind']}"
                    continue
                try:
                    model.model_validate(body)
                except pydantic.ValidationError as error:
                    yield f"{name}: {error}"


def addresses_in_locks(root: Path) -> Iterator[str]:
    """The lock files pin by hash, and leave it to the user's settings where packages come from."""
    for lock in LOCKS:
        for number, line in enumerate((root / lock).read_text().splitlines(), 1):
            if "://" in line or re.match(r"\s*(-i|-f|--(index-url|extra-index-url|find-links))\b", line):
                yield f"{lock}:{number}: names where packages come from: {line.strip()}"


def version_without_changelog(root: Path) -> Iterator[str]:
    """The version in pyproject.toml is the newest in CHANGELOG.md."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text() if changelog.exists() else ""
    found = re.search(r"^## \[?v?(\d+\.\d+\.\d+)", text, re.MULTILINE)
    if found is None or found[1] != version:
        newest = found[1] if found else "none"
        yield f"pyproject.toml has version {version}, the newest in CHANGELOG.md is {newest}"


def chart_of_another_version(root: Path) -> Iterator[str]:
    """The chart and the operator in it have the version in pyproject.toml."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((root / "charts" / "weft" / "Chart.yaml").read_text())
    for field in ("version", "appVersion"):
        if str(chart.get(field)) != version:
            yield f"charts/weft/Chart.yaml has {field} {chart.get(field)}, pyproject.toml has version {version}"


def package_of_another_version(root: Path) -> Iterator[str]:
    """What `weft --version` says is the version in pyproject.toml."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    text = (root / "operator" / "src" / "weft" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    if found is None or found[1] != version:
        said = found[1] if found else "none"
        yield f"operator/src/weft/__init__.py has version {said}, pyproject.toml has version {version}"


def main() -> int:
    checks = (
        stale_crds,
        bad_examples,
        addresses_in_locks,
        version_without_changelog,
        chart_of_another_version,
        package_of_another_version,
    )
    problems = [problem for check in checks for problem in check(ROOT)]
    for problem in problems:
        print(problem)
    print(f"verify: {len(checks)} checks, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

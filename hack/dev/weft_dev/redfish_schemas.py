"""DMTF's and SNIA's schema files, for their validator: from a Rust package, by cargo. DMTF's site is not asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from weft_dev.tools import cache

_PACKAGE, _VERSION = "nv-redfish-schema", "0.22.1"
_DIGEST = "6551deb073f3010b05c87cc5441f4e45776911bdab104ab96974e1cffee63a81"
"""SHA-256 over the names and contents of its schema files."""
_FOLDERS = ("swordfish-csdl/csdl-schema", "redfish-csdl/csdl")
"""In this order: DMTF's files replace SNIA's of the same name."""


class NoSchemasError(Exception):
    """The schema files cannot be had here; the text says why."""


def schema_files() -> Path:
    """The folder of schema files, fetched once. Raises NoSchemasError."""
    target = cache.cache_directory() / f"redfish-schemas-{_VERSION}"
    if not target.is_dir():
        cache.cache_directory().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-schemas-", dir=cache.cache_directory()) as work:
            package, made = _fetched(Path(work)), Path(work) / "schemas"
            made.mkdir()
            for folder in _FOLDERS:
                for file in sorted((package / folder).glob("*.xml")):
                    shutil.copyfile(file, made / file.name)
            if (digest := _digest(made)) != _DIGEST:
                raise NoSchemasError(f"the schema files of {_PACKAGE} {_VERSION} have the SHA-256 {digest}")
            with contextlib.suppress(OSError):  # another process was faster
                made.rename(target)
    return target


def _fetched(work: Path) -> Path:
    """The package's folder, by a project of nothing that depends on it."""
    if (cargo := shutil.which("cargo")) is None:
        raise NoSchemasError("cargo is not here: the schema files are in a Rust package")
    (work / "src").mkdir()
    (work / "src" / "lib.rs").touch()
    text = f'[package]\nname = "schemas"\nversion = "0.0.0"\n\n[dependencies]\n{_PACKAGE} = "={_VERSION}"\n'
    (work / "Cargo.toml").write_text(text)
    command = [cargo, "metadata", "--format-version", "1", "--manifest-path", str(work / "Cargo.toml")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        raise NoSchemasError(f"cargo has not fetched {_PACKAGE} within two minutes") from None
    if done.returncode:
        raise NoSchemasError(f"cargo cannot fetch {_PACKAGE}: {done.stderr.strip()[-300:]}")
    packages = json.loads(done.stdout)["packages"]
    return Path(next(p["manifest_path"] for p in packages if p["name"] == _PACKAGE)).parent


def _digest(folder: Path) -> str:
    sum_ = hashlib.sha256()
    for file in sorted(folder.glob("*.xml")):
        sum_.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
    return sum_.hexdigest()

"""What an image is made from: the files that .dockerignore lets through, their hash, and the build context.

The context is a tar archive of exactly the files that are hashed, with fixed owners, modes and times: the same
inputs give the same context, whatever else lies in the clone.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from weft_dev import ROOT

WHEELS = "build/wheels"
"""Where the Dockerfile looks for wheels; those of `make image` are kept elsewhere and join the context there."""


@dataclass(frozen=True)
class Rules:
    """The part of .dockerignore's language that ours keeps to."""

    sent: tuple[str, ...]
    """Files and folders, relative to the top of the repository."""
    left_out: tuple[str, ...]
    """Patterns of names, of files or folders anywhere in what is sent."""


def read_rules(root: Path = ROOT) -> Rules:
    """The rules of `root`/.dockerignore. Raises ValueError for one that is neither `*`, `!PATH` nor `**/NAME`."""
    sent, left_out = [], []
    for line in (root / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            sent.append(line[1:])
        elif line.startswith("**/"):
            left_out.append(line[3:])
        elif line and line != "*" and not line.startswith("#"):
            raise ValueError(f".dockerignore: {line!r} is neither !PATH nor **/NAME")
    return Rules(tuple(sent), tuple(left_out))


def files(root: Path = ROOT) -> dict[str, Path]:
    """The files of the context by their path in it, sorted; wheels are not among them."""
    rules = read_rules(root)
    found: dict[str, Path] = {}
    for sent in rules.sent:
        if sent == WHEELS:
            continue
        top = root / sent
        for path in _files_below(top) if top.is_dir() else [top]:
            name = path.relative_to(root)
            if not any(fnmatch.fnmatch(part, pattern) for part in name.parts for pattern in rules.left_out):
                found[name.as_posix()] = path
    # The builder applies the rules too.
    found[".dockerignore"] = root / ".dockerignore"
    return dict(sorted(found.items()))


def _files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def input_hash(contents: Mapping[str, Path], **values: str) -> str:
    """A hash of names and contents of files, and of the other `values` that a build depends on."""
    total = hashlib.sha256()
    for key, value in sorted(values.items()):
        total.update(f"{key}={value}\0".encode())
    for name, path in sorted(contents.items()):
        total.update(f"{name}\0{file_hash(path)}\0".encode())
    return total.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_context(
    contents: Mapping[str, Path], target: io.BufferedIOBase, *, executable: bool = False
) -> None:
    """Write a tar archive of the files, named as they are called in the context."""
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, path in sorted(contents.items()):
            member = tarfile.TarInfo(name)
            member.size = path.stat().st_size
            member.mode = 0o755 if executable else 0o644
            with path.open("rb") as file:
                archive.addfile(member, file)

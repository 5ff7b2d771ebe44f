"""What kubectl's shell completion is told of a begun `kubectl weft`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import pytest

from weft.cli.look.complete import FILES, NO_FILES, NO_FILES_AND_NO_SPACE, candidates


async def names(kind: str, namespace: str) -> Iterable[str]:
    assert kind in ("namespace", "lnode", "device")
    if kind == "namespace":
        return ["team-a", "team-b"]
    return ["gpu-1"] if kind == "device" else [f"trainer-{namespace or 'here'}"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], None),
        (["wh"], (["why"], NO_FILES)),
        (["why", "logical"], (["logicalnode/"], NO_FILES_AND_NO_SPACE)),
        (["why", "lnode/"], (["lnode/trainer-here"], NO_FILES)),
        (["why", "-n", "team-b", "lnode/t"], (["lnode/trainer-team-b"], NO_FILES)),
        (["why", "device/"], (["device/gpu-1"], NO_FILES)),
        (["pause", "d"], ([], NO_FILES_AND_NO_SPACE)),
        (["pause", "--ta"], (["--taking"], NO_FILES)),
        (["pause", "--taking", "inf"], (["inferencegroup/"], NO_FILES_AND_NO_SPACE)),
        (["status", "-n", "team-"], (["team-a", "team-b"], NO_FILES)),
        (["status", "-o", "j"], (["json"], NO_FILES)),
        (["plan", "-f", ""], ([], FILES)),
        (["nothing", "x"], ([], NO_FILES)),
    ],
)
async def test_a_begun_command_line_is_completed(
    words: list[str], expected: tuple[list[str], int] | None
) -> None:
    found = await candidates(words, names)
    if expected is None:
        assert {"status", "tree", "why", "plan", "pause", "report"} <= set(found[0])
    else:
        assert found == expected


def test_without_a_cluster_a_shell_is_told_nothing_and_not_an_error() -> None:
    program = "import sys; from weft.cli.look.complete import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "why", "lnode/"]
    environment = {"KUBECONFIG": "/nowhere", "HOME": "/nowhere", "PATH": ""}
    environment["PYTHONPATH"] = ":".join(sys.path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, ":4\n", "")

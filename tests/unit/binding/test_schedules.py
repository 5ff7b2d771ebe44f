"""The fault suite's seeds on the pure core, in virtual time. `make schedules SEEDS=n SEED_START=k` runs others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import weft
from support.simulated.run import Run, play
from weft_dev import mutants

ROOT = Path(__file__).resolve().parents[3]
PLAYED = 100
"""CI plays more."""
SEEDS = 200
"""So many find any guard that is removed, see below."""


def simulated(source: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: the order of sets is a part of a seed."""
    path = os.pathsep.join(map(str, (source, root / "tests")))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "support.simulated", *arguments]
    return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=300)


def test_nothing_is_attached_twice_leaked_lost_or_shared_in_virtual_time() -> None:
    done = simulated(Path(weft.__file__).parents[1], ROOT, "--seeds", str(PLAYED))
    assert done.returncode == 0, done.stdout + done.stderr


def test_groups_that_are_composed_anew_in_one_domain_keep_to_it_and_to_what_they_may_have() -> None:
    done = simulated(Path(weft.__file__).parents[1], ROOT, "--groups", "--seeds", "4")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_is_the_same_each_time() -> None:
    first, second = (play(Run(7)) for _ in range(2))
    assert first == second
    assert first.trace != play(Run(8)).trace


@pytest.mark.parametrize(
    "guard", ["finalizer-early", "verify-skipped", "devices-detached-under-a-pod", "settle-skipped"]
)
def test_a_guard_that_is_removed_is_found_out_within_as_many_seeds(guard: str, tmp_path: Path) -> None:
    (mutant,) = (each for each in mutants.load() if each.name == guard)
    mutants.copy(tmp_path)
    mutant.apply(tmp_path)
    done = simulated(tmp_path / "operator" / "src", tmp_path, "--seeds", str(SEEDS), "--until-found")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("seed "), done.stdout

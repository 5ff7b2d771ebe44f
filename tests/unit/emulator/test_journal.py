"""The journal's checker: what it finds, and what it lets pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weft.emulator.journal import DoubleAttach, Report, check, joined, main


def lines(*acts: tuple[str, str, str] | tuple[str, str, str, str]) -> list[str]:
    written = []
    for seq, (act, block, host, *outcome) in enumerate(acts, start=1):
        entry = {"seq": seq, "act": act, "block": block, "host": host, "outcome": (outcome or ["done"])[0]}
        written.append(json.dumps(entry))
    return written


def test_a_journal_without_faults_is_clean() -> None:
    journal = lines(("attach", "gpu-0", "a"), ("detach", "gpu-0", "a"), ("attach", "gpu-0", "b"))
    assert check(journal) == Report((), (("gpu-0", "b"),), attaches=2, detaches=1)


def test_a_block_on_two_hosts_is_found() -> None:
    journal = lines(("attach", "gpu-0", "a"), ("attach", "gpu-1", "a"), ("attach", "gpu-0", "b"))
    assert check(journal).double_attached == (DoubleAttach(3, "gpu-0", ("a", "b")),)


def test_a_block_attached_twice_to_one_host_is_found() -> None:
    assert len(check(lines(("attach", "gpu-0", "a"), ("attach", "gpu-0", "a"))).double_attached) == 1


def test_refused_acts_do_not_count() -> None:
    journal = lines(("attach", "gpu-0", "a"), ("refused", "gpu-0", "b", "in-use"), ("detach", "gpu-0", "a"))
    assert check(journal) == Report((), (), attaches=1, detaches=1)


@pytest.mark.parametrize(("outcome", "doubles"), [("empty", 0), ("restored", 1)])
def test_an_emulator_that_started_empty_has_forgotten(outcome: str, doubles: int) -> None:
    journal = lines(("attach", "gpu-0", "a"), ("start", "", "", outcome), ("attach", "gpu-0", "b"))
    assert len(check(journal).double_attached) == doubles


def test_a_manager_that_starts_forgets_nothing_of_another_one() -> None:
    start = ("start", "", "", "empty")
    journals = [lines(start, ("attach", block, "a")) for block in ("gpu-0", "cxl-0")]
    assert check(joined(journals)).left_attached == (("gpu-0", "a"), ("cxl-0", "a"))


def test_a_last_line_cut_short_is_left_out_and_any_other_is_an_error() -> None:
    journal = lines(("attach", "gpu-0", "a"), ("detach", "gpu-0", "a"))
    assert check([journal[0], journal[1][:9]]).left_attached == (("gpu-0", "a"),)
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        check([journal[0][:9], journal[1]])


@pytest.mark.parametrize(
    ("acts", "arguments", "status", "said"),
    [
        ((("attach", "gpu-0", "a"),), [], 0, "left attached: gpu-0 on a"),
        ((("attach", "gpu-0", "a"),), ["--expect-empty"], 1, "left attached: gpu-0 on a"),
        ((("attach", "gpu-0", "a"), ("detach", "gpu-0", "a")), ["--expect-empty"], 0, "detaches 1"),
        (
            (("attach", "gpu-0", "a"), ("attach", "gpu-0", "b")),
            [],
            1,
            "attached twice: gpu-0 on a, b (seq 2)",
        ),
    ],
)
def test_the_program_says_what_it_found_and_fails_on_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    acts: tuple[tuple[str, str, str], ...],
    arguments: list[str],
    status: int,
    said: str,
) -> None:
    file = tmp_path / "journal.jsonl"
    file.write_text("\n".join(lines(*acts)))
    assert main([str(file), *arguments]) == status
    assert said in capsys.readouterr().out

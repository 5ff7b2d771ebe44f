"""`weft rehearse` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from weft.cli.main import main

PROFILE = """
apiVersion: weft.dev/v1alpha2
kind: EngineProfile
metadata: {name: p}
spec:
  prefill: [{promptTokens: 100, microseconds: 20000}, {promptTokens: 10000, microseconds: 2000000}]
  decode: [{batch: 1, microseconds: 20000}, {batch: 32, microseconds: 40000}]
  kvCapacityTokens: 60000
  maxBatch: 32
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    rows = "".join(f"{i * 0.5},{400 + 37 * (i % 11)},{20 + i % 50}\n" for i in range(200))
    (tmp_path / "trace.csv").write_text("arrival_seconds,prompt_tokens,answer_tokens\n" + rows)
    (tmp_path / "profile.yaml").write_text(PROFILE)
    return [
        "rehearse",
        str(tmp_path / "trace.csv"),
        "--profile",
        str(tmp_path / "profile.yaml"),
        "--ttft",
        "2",
    ]


def test_every_policy_has_a_row(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--replicas", "4", "--ttft", "2", "--itl", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "200 requests in 100 s" in out
    assert "Do not move" in out, "every split is good enough"
    assert [line.split()[0] for line in out.splitlines()[3:6]] == ["static", "best-static", "weft"]


def test_json_has_figures_and_course(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status = main(
        [*files, "--replicas", "4", "--split", "1:3", "--policy", "static", "--json", "--watts", "700"]
    )
    assert status == 0
    answer = json.loads(capsys.readouterr().out)
    (row,) = answer["policies"]
    assert row["first"] == "1:3"
    assert row["attainment"] == 1.0
    assert row["acceleratorHours"] == pytest.approx(4 * 99.5 / 3600)
    assert row["wattHoursPerRequest"] == pytest.approx(700 * 4 * 99.5 / 3600 / 200)
    assert answer["courses"]["static"]["bins"]


def test_a_report_is_written_where_one_wants_it(files: list[str], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert main([*files, "--replicas", "4", "--policy", "static", "--html", str(path)]) == 0
    assert path.read_text().startswith("<!doctype html>")
    assert main([*files, "--replicas", "4", "--policy", "static", "--html", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--replicas", "4", "--policy", "magic"], "'magic' is none of"),
        (["--replicas", "0"], "at least 1"),
        (["--replicas", "4", "--split", "4:0"], "nobody would serve"),
        (["--replicas", "4", "--split", "4:4"], "it has 8 replicas, --replicas says 4\n"),
        (["--replicas", "4", "--start", "1000"], "no request arrives"),
        (
            ["--replicas", "4", "--split", "1:2:1", "--policy", "ratio"],
            "knows prefill and decode replicas only",
        ),
        (["--replicas", "4", "--ttft", "nan"], "above 0"),
        (["--replicas", "1"], "one of each stage are two"),
    ],
)
def test_what_cannot_be_rehearsed_is_said(
    files: list[str], arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main([*files, *arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    told = capsys.readouterr().err
    assert says in told
    assert "usage:" not in told


def test_all_that_is_missing_is_asked_for_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["rehearse", "trace.csv"])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert [
        option for option in ("--profile", "--replicas", "--ttft, --itl or both") if option not in told
    ] == []
    assert len(told.splitlines()) == 1


def test_an_objective_in_milliseconds_is_warned_of_and_each_policy_named_as_it_begins(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--replicas", "4", "--policy", "static", "--ttft", "2500", "--itl", "95"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert "for 2500 ms say --ttft 2.5" in told[0]
    assert "for 95 ms say --itl 0.095" in told[1]
    assert told[2:] == ["weft rehearse: static ..."]


def test_a_trace_that_is_not_there_is_named_without_an_errno(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rehearse", "nope.csv", *files[2:], "--replicas", "4"]) == 2
    assert capsys.readouterr().err == "weft rehearse: nope.csv: No such file or directory\n"


def test_times_since_the_epoch_are_said_and_not_played(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "arrival_seconds,prompt_tokens,answer_tokens\n1732700000,100,10\n1732700001,100,10\n"
    (tmp_path / "trace.csv").write_text(text)
    assert main([*files, "--replicas", "4"]) == 2
    assert "comes 20,054 days after the start" in capsys.readouterr().err
    assert main([*files, "--replicas", "4", "--start", "1732700000", "--policy", "static"]) == 0


def test_requests_that_no_engine_would_take_are_counted(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "arrival_seconds,prompt_tokens,answer_tokens\n0,70000,10\n1,100,10\n"
    (tmp_path / "trace.csv").write_text(text)
    assert main([*files, "--replicas", "4", "--policy", "static"]) == 0
    assert "1 of them are larger than a replica's KV cache (60,000 tokens)" in capsys.readouterr().out


def test_where_the_size_is_free_hours_and_promise_are_said(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--replicas", "2..4", "--attainment", "0.95"]) == 0
    out = capsys.readouterr().out
    assert "promised 95 %" in out
    assert "The smallest fixed fleet that keeps 95 %, known only in hindsight, is 1:1" in out
    assert "Weft keeps the promise (100.0 %) with 100 % more accelerator-hours than that." in out


def test_a_profile_that_is_none_says_why(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profile.yaml").write_text("kind: Pod")
    assert main([*files, "--replicas", "4"]) == 2
    assert "one EngineProfile, and has 0" in capsys.readouterr().err


def test_without_an_objective_there_is_nothing_to_say(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*files[:-2], "--replicas", "4"])
    assert "what are requests to meet?" in capsys.readouterr().err


def test_help_needs_nothing_of_a_cluster() -> None:
    code = (
        "import sys\nfrom weft.cli.main import main\n"
        "try: main(['rehearse', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('kopf', 'kubernetes', 'aiohttp', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

"""Traces as others publish them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.rehearse.trace import Trace, TraceError, read_trace


def test_the_published_forms_are_read_alike(tmp_path: Path) -> None:
    azure = tmp_path / "azure.csv"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    )
    mooncake = tmp_path / "mooncake.jsonl"
    mooncake.write_text(
        '{"timestamp": 1000, "input_length": 374, "output_length": 44, "hash_ids": [7]}\n'
        '{"timestamp": 5314, "input_length": 396, "output_length": 109, "hash_ids": [7, 8]}\n'
    )
    own = tmp_path / "own.csv.gz"
    own.write_bytes(gzip.compress(b"arrival_seconds,prompt_tokens,answer_tokens\n4.314,396,109\n0,374,44\n"))
    for path in (azure, mooncake, own):
        trace = read_trace(path)
        assert trace.prompt_tokens == (374, 396)
        assert trace.answer_tokens == (44, 109)
        assert trace.at_seconds == pytest.approx((0.0, 4.314), abs=1e-3)
    assert read_trace(mooncake).blocks == ((7,), (7, 8))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "no trace"),
        ("arrival_seconds,prompt_tokens,answer_tokens\n", "has no requests"),
        ("arrival_seconds,prompt_tokens,answer_tokens\n1,2,3\n1,x,3\n", "line 3"),
        ("arrival_seconds,prompt_tokens,answer_tokens\nnan,2,3\n", "line 2"),
        ("arrival_seconds,prompt_tokens,answer_tokens\n1,2\n", "line 2: None is no number of tokens"),
        ("arrival_seconds,prompt_tokens,answer_tokens\n1,-2,3\n", "line 2: '-2' is no number of tokens"),
        ("arrival_seconds,prompt_tokens,answer_tokens\n1,2,inf\n", "line 2: 'inf' is no number of tokens"),
        ("arrival_seconds,prompt_tokens,answer_tokens\n1,2.5,3\n", "line 2: '2.5' is no number of tokens"),
        ('{"timestamp": -1, "input_length": 1, "output_length": 1}\n', "line 1.*no time of arrival"),
        ('{"timestamp": 1}\n', "line 1"),
        ("", "no trace"),
    ],
)
def test_a_file_that_is_no_trace_says_where(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(TraceError, match=says):
        read_trace(path)


def test_a_trace_over_itself_has_its_requests_so_many_times_in_the_same_time() -> None:
    trace = Trace.of([(float(i), 10 + i, 1) for i in range(10)], [(i,) for i in range(10)])
    twice = trace.superposed(2, 3.5)
    assert len(twice) == 20
    assert twice.seconds <= trace.seconds + 1e-3
    assert sorted(twice.prompt_tokens) == sorted(trace.prompt_tokens * 2)
    assert len({block for blocks in twice.blocks for block in blocks}) == 20, "copies share no prompts"


def test_a_part_of_a_trace_begins_at_zero() -> None:
    trace = Trace.of([(0.0, 1, 1), (10.0, 2, 2), (20.0, 3, 3)])
    assert trace.cut(10.0, 20.0) == Trace.of([(0.0, 2, 2)])


def test_what_spreadsheets_write_is_read(tmp_path: Path) -> None:
    """A byte order mark, Windows' line ends, and whole numbers with a point."""
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xef\xbb\xbfarrival_seconds,prompt_tokens,answer_tokens\r\n2,3.0,4\r\n1,5,6\r\n")
    trace = read_trace(path)
    assert (trace.at_seconds, trace.prompt_tokens, trace.answer_tokens) == ((1.0, 2.0), (5, 3), (6, 4))


@pytest.mark.parametrize(
    "harm", [lambda data: data[: len(data) // 2], lambda data: data[:60] + b"\0\xff" + data[62:]]
)
def test_a_compressed_file_that_is_damaged_is_said(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    rows = "".join(f"{each},{100 + each % 37},10\n" for each in range(500))
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(harm(gzip.compress(f"arrival_seconds,prompt_tokens,answer_tokens\n{rows}".encode())))
    with pytest.raises(TraceError, match=r"trace\.csv\.gz"):
        read_trace(path)

"""Samples and rates as Prometheus has them."""

from __future__ import annotations

import math

import pytest

from weft.rehearse.scrapes import Samples, cumulated


def counted(times: list[float], values: list[float]) -> Samples:
    samples = Samples()
    for time, value in zip(times, values, strict=True):
        samples.add(time, [value], 1e9)
    return samples


def rate(samples: Samples, now: float, seconds: float) -> float | None:
    found = samples.rate(now, seconds, slice(0, 1))
    return None if found is None else found[0]


def test_a_steady_counter_has_its_rate_wherever_the_range_cuts_it() -> None:
    samples = counted([5.0 * i for i in range(20)], [10.0 * i for i in range(20)])
    for now in (95.0, 96.0, 98.5):
        assert rate(samples, now, 30.0) == pytest.approx(2.0)


def test_a_rate_needs_two_samples() -> None:
    assert rate(counted([5.0], [1.0]), 6.0, 15.0) is None
    assert rate(counted([5.0, 20.0], [1.0, 2.0]), 21.0, 15.0) is None, "the range is open at its start"


def test_a_counter_is_not_extrapolated_to_before_it_was_zero() -> None:
    """1 at 10 s, 3 at 12 s: it was zero at 9 s, so 6 s of the range's start count for nothing; 2 s of the end
    are within 1.1 intervals."""
    samples = counted([10.0, 12.0], [1.0, 3.0])
    assert rate(samples, 14.0, 10.0) == pytest.approx((2.0 + 1.0 + 2.0) / 10.0)


def test_a_range_that_ends_long_after_the_last_sample_is_extrapolated_by_half_an_interval() -> None:
    samples = counted([0.0, 2.0, 4.0], [100.0, 104.0, 108.0])
    assert rate(samples, 10.0, 11.0) == pytest.approx(8.0 * (4.0 + 1.0 + 1.0) / 4.0 / 11.0)


def test_a_histogram_cumulates_to_all_it_counted() -> None:
    assert cumulated((1.0, 2.0), [1.0, 2.0, 3.0]) == ((1.0, 1.0), (2.0, 3.0), (math.inf, 6.0))

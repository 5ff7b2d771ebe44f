from __future__ import annotations

from decimal import Decimal

import pytest

from weft.api.quantity import format_bytes, parse_bytes, parse_decimal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2Ti", 2 * 1024**4),
        ("141Gi", 141 * 1024**3),
        ("1.5Gi", 3 * 1024**3 // 2),
        ("8T", 8 * 10**12),
        ("1e3", 1000),
        ("2E", 2 * 10**18),
        ("5E2", 500),
        ("0", 0),
        ("+1k", 1000),
        ("0.0001k", 1),
        ("1500m", 2),
    ],
)
def test_sizes_are_whole_bytes_rounded_up(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("2.10", "2.10"), ("500m", "0.5"), ("16", "16"), ("-3n", "-0.000000003"), (".5", "0.5")],
)
def test_decimals_are_exact(text: str, value: str) -> None:
    assert parse_decimal(text) == Decimal(value)


def test_more_digits_than_the_decimal_context_holds_are_kept() -> None:
    digits = "123456789012345678901234567890123456789"

    assert parse_decimal(digits + "Ei") == int(digits) * 1024**6


@pytest.mark.parametrize(
    "text", ["", " 1", "1 Gi", "2TB", "Gi", "1.2.3", "0x10", "1e999", "٣", "1_000", "9" * 65, "."]
)
def test_what_is_no_quantity_is_named_in_the_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a quantity|unknown suffix"):
        parse_decimal(text)


def test_an_unknown_suffix_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'2TB' has the unknown suffix 'TB': use one of Ki, .*Ti"):
        parse_decimal("2TB")


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        parse_bytes("-1Gi")
    with pytest.raises(ValueError, match="zero or more"):
        format_bytes(-1)


@pytest.mark.parametrize(
    ("count", "text"),
    [(2 * 1024**4, "2Ti"), (1536 * 1024**2, "1536Mi"), (1500, "1500"), (0, "0"), (1024**7, "1024Ei")],
)
def test_bytes_are_written_in_the_largest_exact_unit(count: int, text: str) -> None:
    assert format_bytes(count) == text

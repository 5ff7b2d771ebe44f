from __future__ import annotations

import contextlib
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from weft.api.quantity import format_bytes, parse_bytes, parse_decimal
from weft.api.values import ByteQuantity, Money, Quantity

SUFFIXES = {"": 1} | {
    letter + mark: base**power
    for mark, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate("kMGTPE" if not mark else "KMGTPE", start=1)
}


@given(st.integers(min_value=0, max_value=2**200))
def test_bytes_survive_being_written_and_read(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == count


@given(st.integers(0, 10**18), st.integers(0, 9999), st.sampled_from(sorted(SUFFIXES)))
def test_any_size_the_schema_takes_has_its_exact_value(whole: int, fraction: int, suffix: str) -> None:
    text = f"{whole}.{fraction:04d}{suffix}"
    exact = Fraction(f"{whole}.{fraction:04d}") * SUFFIXES[suffix]
    adapter: TypeAdapter[str] = TypeAdapter(ByteQuantity)

    if whole == 0 and fraction == 0:
        with pytest.raises(ValidationError):
            adapter.validate_python(text)
    else:
        assert 0 <= parse_bytes(adapter.validate_python(text)) - exact < 1


@pytest.mark.parametrize("shape", [ByteQuantity, Quantity, Money], ids=["bytes", "quantity", "money"])
def test_whatever_the_schema_takes_can_be_read(shape: object) -> None:
    schema = TypeAdapter(shape).json_schema(mode="validation")
    # The pattern stands in a rule, as the API server evaluates it.
    match = re.search(r"r'(.*)'", schema["x-kubernetes-validations"][0]["rule"])
    assert match is not None

    @given(st.from_regex(match[1].replace("$", r"\Z"), fullmatch=True).filter(lambda text: text.isascii()))
    def every_match_is_read(text: str) -> None:
        assert parse_decimal(text) >= 0

    every_match_is_read()


@given(st.text(max_size=80))
def test_any_other_text_raises_nothing_but_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_decimal(text)

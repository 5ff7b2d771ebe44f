"""Kubernetes quantities ("2Ti", "1500m", "2.10") as exact numbers.

Format: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_SHAPE = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))([eE][+-]?[0-9]{1,2}|[A-Za-z]{0,2})", re.ASCII)
_MAX_LENGTH = 64

_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_FACTORS: dict[str, Decimal] = {
    "": Decimal(1),
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(_BINARY, start=1)},
    **{
        suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)
    },
    **{suffix: Decimal(1).scaleb(-3 * power) for power, suffix in enumerate(("m", "u", "n"), start=1)},
}


def parse_decimal(text: str | int) -> Decimal:
    """The exact value of a quantity, which may be written as a number.

    Raises ValueError, naming the text and what would be accepted, when it is not one.
    """
    text = str(text)
    match = _SHAPE.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if match is None:
        raise ValueError(
            f"{text[:_MAX_LENGTH]!r} is not a quantity: write a number such as 16, 2.5, 500m or 64Gi"
        )
    number, suffix = match.groups()
    if suffix[-1:].isdigit():
        return _product(Decimal(number), Decimal(1).scaleb(int(suffix[1:])))
    factor = _FACTORS.get(suffix)
    if factor is None:
        raise ValueError(
            f"{text!r} has the unknown suffix {suffix!r}: use one of {', '.join(filter(None, _FACTORS))}"
        )
    return _product(Decimal(number), factor)


def parse_bytes(text: str | int) -> int:
    """A quantity as a whole number of bytes; a part of a byte counts as one, as Kubernetes has it.

    Raises ValueError when it is not a quantity or is negative.
    """
    value = parse_decimal(text)
    if value < 0:
        raise ValueError(f"{text!r} is negative: a size is zero or more bytes")
    return int(value.to_integral_value(ROUND_CEILING))


def format_bytes(count: int) -> str:
    """The shortest exact binary form of a number of bytes: 2199023255552 -> "2Ti", 1500 -> "1500".

    Raises ValueError when `count` is negative.
    """
    if count < 0:
        raise ValueError(f"{count} bytes: a size is zero or more")
    suffix = ""
    for larger in _BINARY:
        if count == 0 or count % 1024:
            break
        count, suffix = count // 1024, larger
    return f"{count}{suffix}"


def _product(number: Decimal, factor: Decimal) -> Decimal:
    """`number * factor` without the rounding of the current decimal context."""
    (sign, digits, exponent), (_, factor_digits, factor_exponent) = number.as_tuple(), factor.as_tuple()
    assert isinstance(exponent, int)
    assert isinstance(factor_exponent, int)
    product = _integer(digits) * _integer(factor_digits)
    return Decimal((sign, tuple(int(digit) for digit in str(product)), exponent + factor_exponent))


def _integer(digits: tuple[int, ...]) -> int:
    return int("".join(map(str, digits)))

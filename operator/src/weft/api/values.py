"""Bounded strings, numbers and times that the models share. Every bound also limits the cost of CEL rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from weft.api.cel import Rule, rules


@dataclass(frozen=True)
class IntOrString:
    """In the schema a whole number or a string (`16`, `"16"`), as Kubernetes takes quantities."""

    least: int
    """The smallest whole number that is taken."""
    pattern: str
    """What a string must look like."""
    message: str
    """The API server's answer to anything else."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        rule = f"type(self) == string ? self.matches(r'{self.pattern}') : self >= {self.least}"
        return {
            "maximum": MAX_INTEGER,
            "maxLength": MAX_QUANTITY,
            "x-kubernetes-int-or-string": True,
            **rules(Rule(rule, self.message)),
        }


@dataclass(frozen=True)
class Explained:
    """Makes the API server answer a mismatch of the pattern with this message, and not with the pattern."""

    message: str

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        return schema | rules(Rule(f"self.matches(r'{schema.pop('pattern')}')", self.message))


DnsLabel = Annotated[
    str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
"""A name without dots, as of a namespace or of an entry of a list."""

DnsSubdomain = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]
"""A name of an object."""

Identifier = Annotated[
    str,
    StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1F\x7F]+$"),
]
"""A fabric manager's own name for a device or a host: whatever it chose, but for control characters."""

AttributeName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9]*$"),
    Explained("must be the name of a device attribute: letters and digits, for example nvlinkDomain"),
]
"""The name of a device attribute: `vendor`, `nvlinkDomain`."""

AttributeValue = Annotated[str, StringConstraints(max_length=253)]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=316)]
LabelValue = Annotated[
    str,
    StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"),
    Explained("must be a label's value: letters, digits and - _ . in between, at most 63"),
]

MAX_INTEGER = 2**53 - 1
MAX_QUANTITY = 32
_SUFFIX = r"(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
_BYTES = r"^[0-9]{1,19}(\.[0-9]{1,4})?" + _SUFFIX
_MORE_BYTES = r"^(0*[1-9][0-9]{0,18}(\.[0-9]{1,4})?|0+\.0{0,3}[1-9][0-9]{0,3})" + _SUFFIX
_QUANTITY = r"^[0-9]{1,19}(\.[0-9]{1,9})?(m|" + _SUFFIX[1:]
_MONEY = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?$"


def _text(pattern: str) -> StringConstraints:
    return StringConstraints(min_length=1, max_length=MAX_QUANTITY, pattern=pattern)


ByteQuantity = Annotated[
    Annotated[int, Field(ge=1, le=MAX_INTEGER)] | Annotated[str, _text(_MORE_BYTES)],
    IntOrString(
        1,
        _MORE_BYTES,
        "must be a number of bytes above zero as a Kubernetes quantity, for example 512Gi or 2Ti",
    ),
]
"""More than zero bytes; read it with `weft.api.quantity.parse_bytes`."""

ByteAmount = Annotated[
    Annotated[int, Field(ge=0, le=MAX_INTEGER)] | Annotated[str, _text(_BYTES)],
    IntOrString(0, _BYTES, "must be a number of bytes as a Kubernetes quantity, for example 512Gi or 2Ti"),
]
"""Zero or more bytes; read it with `weft.api.quantity.parse_bytes`."""

Quantity = Annotated[
    Annotated[int, Field(ge=0, le=MAX_INTEGER)] | Annotated[str, _text(_QUANTITY)],
    IntOrString(0, _QUANTITY, "must be a Kubernetes quantity, for example 16, 500m or 64Gi"),
]
"""Zero or more of anything; read it with `weft.api.quantity.parse_decimal`."""

Money = Annotated[
    Annotated[int, Field(ge=0, le=MAX_INTEGER)] | Annotated[str, _text(_MONEY)],
    IntOrString(
        0, _MONEY, "must be an amount without a currency and with at most six decimals, for example '2.10'"
    ),
]
"""An amount without a currency; read it with `weft.api.quantity.parse_decimal`."""

Watts = Annotated[int, Field(ge=0, le=100_000)]
"""Power of one device."""

Jurisdiction = Annotated[
    str, StringConstraints(min_length=2, max_length=32, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$")
]
"""A law that hardware stands under: EU, CH, US-CA."""

MAX_MESSAGE = 1024


def _cut_message(text: object) -> object:
    return f"{text[: MAX_MESSAGE - 3]}..." if isinstance(text, str) and len(text) > MAX_MESSAGE else text


Message = Annotated[str, BeforeValidator(_cut_message), StringConstraints(max_length=MAX_MESSAGE)]
"""Text for people; what is too long is cut, since it may quote an answer of any length."""

Reason = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?$")
]
Uid = Annotated[str, StringConstraints(max_length=64)]

Counter = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A number of things in a status."""

Version = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""A generation or an epoch: it only grows."""


def _whole_seconds_in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC).replace(microsecond=0)
    except OverflowError as error:  # the first or last day there is, of another zone
        raise ValueError("is not within the calendar") from error


Timestamp = Annotated[AwareDatetime, AfterValidator(_whole_seconds_in_utc)]
"""A time as Kubernetes writes it: UTC, whole seconds."""

"""EngineProfile: how fast one replica of a model is, as measured beforehand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from weft.api.cel import Rule, rules
from weft.api.meta import Model, Resource

MAX_POINTS = 64


def _rising(x: str) -> dict[str, Any]:
    """A list of points by rising `x`, whose times do not fall: a longer prompt that takes less time is a measuring
    error, and would let the planner see speed where there is none."""
    return {
        "x-kubernetes-list-type": "atomic",
        **rules(
            Rule(
                f"self.map(p, p.{x}).isSorted() && self.all(p, self.exists_one(q, q.{x} == p.{x}))",
                f"{x} must grow from point to point: put the points in order, each {x} once",
            ),
            Rule(
                "self.map(p, p.microseconds).isSorted()",
                "microseconds must not fall from point to point: measure again, or leave the point out",
            ),
        ),
    }


class PrefillPoint(Model):
    """Time that a prompt of this length takes when it is alone."""

    prompt_tokens: int = Field(ge=1, le=10_000_000, description="Length of the prompt.")
    microseconds: int = Field(ge=1, le=3_600_000_000, description="Time until its first token.")


class DecodePoint(Model):
    """Time per output token while this many requests decode together."""

    batch: int = Field(ge=1, le=100_000, description="Requests that decode together.")
    microseconds: int = Field(ge=1, le=600_000_000, description="Time between two tokens of each of them.")


class EngineProfileSpec(Model):
    """What one replica can do, as measured."""

    prefill: Annotated[tuple[PrefillPoint, ...], Field(min_length=1, max_length=MAX_POINTS)] = Field(
        description="Time of a prompt that is alone, by its length. Linear between the points; beyond the last"
        " along the last two, before the first as at the first.",
        json_schema_extra=_rising("promptTokens"),
    )
    decode: Annotated[tuple[DecodePoint, ...], Field(min_length=1, max_length=MAX_POINTS)] = Field(
        description="Time per output token, by the number of requests that decode together. Read as prefill is.",
        json_schema_extra=_rising("batch"),
    )
    kv_capacity_tokens: int = Field(
        ge=1, le=10**12, description="Tokens whose KV cache one replica holds: contexts beyond it wait."
    )
    max_batch: int = Field(ge=1, le=100_000, description="Most requests that decode at the same time.")


class EngineProfile(Resource):
    """The measured speed of one replica; roles refer to it. What it says is checked when it is written, so that it has
    no status."""

    api_version: Literal["weft.dev/v1alpha2"] = Field(
        default="weft.dev/v1alpha2", description="Version of the schema."
    )
    kind: Literal["EngineProfile"] = Field(default="EngineProfile", description="Kind of the object.")
    spec: EngineProfileSpec = Field(description="What one replica can do, as measured.")

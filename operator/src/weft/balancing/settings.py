"""What an administrator says about metrics: Prometheus servers and sets of metric names.

Tenants name a source and a preset; they never name an address or write PromQL.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class SourceSettings(BaseModel):
    """One Prometheus server that groups may use by name (`spec.metrics.source`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$", max_length=2048)]
    """Where its HTTP API is, without `/api/v1`: `http://prometheus.monitoring:9090`."""
    scrape_interval_seconds: Annotated[float, Field(ge=0.5, le=300)] = 15.0
    """How often it scrapes engines and front ends. Windows and the limits on age follow from it."""
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Limit of one query, from connecting to the last byte."""
    max_response_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 32 << 20
    """An answer larger than this is refused; the groups then hold."""


class PresetSettings(BaseModel):
    """One set of metric names that groups may use by name (`spec.metrics.preset`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inherits: str = ""
    """A built-in preset that supplies whatever is not set here; empty for none."""
    engine: dict[str, str] = Field(default_factory=dict)
    """PromQL by signal, for engines. docs/balancing.md says what an expression may use and has to return."""
    front_end: dict[str, str] = Field(default_factory=dict)
    """The same for what stands before the engines."""
    kv_hold_seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    """How long after a prefill replica's last request its KV caches may still be read by decode replicas."""

"""What an administrator says about a Prometheus server. Tenants name a source; they never name an address."""

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

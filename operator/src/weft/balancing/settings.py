"""What an administrator says about metrics: Prometheus servers and sets of metric names.

Tenants name a source and a preset; they never name an address or write PromQL.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

File = Annotated[str, Field(pattern=r"^/\S*$", max_length=1024)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
HeaderValue = Annotated[str, Field(pattern=r"^[\x20-\x7e]*$", max_length=4096)]
OF_WEFT = ("query", "timeout", "time")
"""Parameters of a query that are Weft's own."""


class BasicAuth(BaseModel):
    """A login by name and password."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    username: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^:\x00-\x1f]+$")]
    password_file: File
    """Holds the password; read before each query, so that it may be replaced."""


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
    method: Literal["POST", "GET"] = "POST"
    """GET where something in between lets nothing else pass; it has to take addresses of 16 KiB."""
    bearer_token_file: File | None = None
    """Holds a token to show; read before each query, so that it may be replaced."""
    basic_auth: BasicAuth | None = None
    ca_file: File | None = None
    """PEM certificates that the server's has to be signed by; without it those that the system trusts."""
    certificate_file: File | None = None
    """A PEM certificate to show to the server, with its chain; certificates are read again when they change."""
    key_file: File | None = None
    """Its private key; without it the certificate's file holds it."""
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Sent with each query, for example X-Scope-OrgID for a tenant of Mimir."""
    query_parameters: dict[str, list[Annotated[str, Field(max_length=1024)]]] = Field(default_factory=dict)
    """More parameters of each query, for example dedup and replicaLabels[] of Thanos."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.bearer_token_file and self.basic_auth:
            raise ValueError("bearer_token_file and basic_auth: set one of them")
        signs_in = self.bearer_token_file or self.basic_auth
        if signs_in and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("headers: Authorization is set by bearer_token_file or basic_auth already")
        if self.key_file and not self.certificate_file:
            raise ValueError("key_file: needs certificate_file")
        if (self.ca_file or self.certificate_file) and not self.url.startswith("https://"):
            raise ValueError("url: has to begin with https:// where certificates are set")
        for name in OF_WEFT:
            if name in self.query_parameters:
                raise ValueError(f"query_parameters: {name} is set by Weft")
        return self


Path = Annotated[str, Field(pattern=r"^/[\x21-\x7e]*$", max_length=1024)]


class RoleSwitchSettings(BaseModel):
    """How an engine changes its stage by an HTTP call (`rebalance.flip: HTTP`), and how it tells the one it has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: Annotated[int, Field(ge=1, le=65535)]
    """Of the engine, at its pod's address."""
    path: Path
    """Gets the POST."""
    body: dict[str, dict[str, Any]]
    """JSON by the stage that it is to serve."""
    role_path: Path
    """Asked by GET before and after."""
    role_field: Annotated[str, Field(min_length=1, max_length=256)]
    """Where its answer, a JSON object, has the stage; dots lead into objects."""
    role: dict[str, str]
    """The engine's words by stage."""
    unchanged_field: str = ""
    """True in a refusal where the engine is as it was; without it the engine is replaced after the timeout."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """How long a change may take; where nothing is known of the engine by then its pod is replaced."""

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        for name, by_stage in (("body", self.body), ("role", self.role)):
            if set(by_stage) != {"prefill", "decode"}:
                raise ValueError(f"{name}: has to have prefill and decode, and nothing else")
        if self.role["prefill"] == self.role["decode"]:
            raise ValueError("role: the two stages have to have different words")
        return self


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
    role_switch: RoleSwitchSettings | None = None
    """For engines that change their stage by an HTTP call."""

"""The operator's settings: built-in values, then a YAML file, then environment variables (`WEFT_...`)."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from weft.balancing.presets import with_configured
from weft.balancing.settings import PresetSettings, SourceSettings
from weft.balancing.targets import ScaleTargetKind

Seconds = Annotated[float, Field(gt=0, le=3600)]


class Settings(BaseSettings):
    """Everything an administrator may set about the operator itself. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="WEFT_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    namespace: str = "weft-system"
    """The operator's own namespace: its Lease and the fabrics' Secrets are here."""
    identity: str = Field(default_factory=socket.gethostname)
    """This replica's name in the Lease; has to differ between replicas."""
    workers: Annotated[int, Field(ge=1, le=256)] = 32
    """Keys reconciled at the same time."""
    lease_seconds: Seconds = 15.0
    """How long a leader that fell silent keeps its place."""
    relist_seconds: Seconds = 300.0
    """How often the cache is compared with a full list."""
    inventory_seconds: Seconds = 15.0
    """How often each fabric's inventory is read."""
    api_timeout_seconds: Seconds = 10.0
    """Limit of one request to the API server."""
    health_host: str = "0.0.0.0"
    """Address to serve health and metrics at; empty for all, of IPv4 and IPv6."""
    health_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Serves /livez, /readyz and /metrics; 0 takes any free port."""
    log_format: Annotated[str, Field(pattern="^(json|text)$")] = "json"
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    sources: dict[str, SourceSettings] = Field(default_factory=dict)
    """Prometheus servers, by the name that `spec.metrics.source` uses."""
    presets: dict[str, PresetSettings] = Field(default_factory=dict)
    """Sets of metric names, by the name that `spec.metrics.preset` uses, beside those that are built in."""

    scale_targets: tuple[ScaleTargetKind, ...] = ()
    """Kinds of workloads that roles may name in `spec.scaleTargetRef`."""

    @model_validator(mode="after")
    def _presets_are_complete(self) -> Self:
        with_configured(self.presets)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which arrives as the initial values."""
        return env_settings, init_settings


def load(path: Path | None) -> Settings:
    """Read the settings.

    Raises OSError when the file cannot be read, and ValueError (pydantic's, naming the field) when a value
    is not acceptable.
    """
    values: Any = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a mapping of settings")
        # Others than the settings' names would be arguments of the constructor (_env_prefix), or none at all (1).
        if unknown := [str(name) for name in values if name not in Settings.model_fields]:
            raise ValueError(f"{path}: unknown settings: {', '.join(unknown)}")
    return Settings(**values)

"""How devices and hosts are taken out of service: parts shared by pools and fabrics."""

from __future__ import annotations

import enum

from pydantic import Field

from weft.api.meta import Model


class AfterTimeout(enum.StrEnum):
    """What becomes of pods that did not go in time."""

    WAIT = "Wait"
    FORCE = "Force"


class Drain(Model):
    """That what is attached is freed, and how pods are moved off it."""

    timeout_seconds: int = Field(
        default=600,
        ge=1,
        le=2_592_000,
        description="How long pods are only evicted, which honours PodDisruptionBudgets.",
    )
    after_timeout: AfterTimeout = Field(
        default=AfterTimeout.WAIT,
        description="Wait: evictions are tried for as long as it takes. Force: pods that are still there are deleted,"
        " whatever budgets and the owner's onMaintenance say; the devices are detached when they are gone.",
    )

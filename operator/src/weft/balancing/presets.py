"""Sets of metric names, as data: which PromQL answers which question about an engine or a front end.

An expression may use `$short`, `$long`, `$recent`, `$past`, `$step` and `$scrape` for the source's windows, and has to
aggregate `by (namespace, pod)` for engines or `by (namespace, model_name)` for the front end (histograms: also
`le`). No expression names a tenant, a pod or a model: one query answers for all groups, and what belongs to
whom is sorted out from the labels afterwards. So no text of a user ever becomes part of a query.

Presets are the administrator's; a group only names one. The built-in ones are here, more come from the settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from weft.balancing.exporters import (
    DYNAMO_FRONTEND,
    DYNAMO_WORKERS,
    ENDPOINT_PICKER,
    SGLANG_ENGINES,
    SMG,
    VLLM_ENGINES,
    VLLM_ROUTER,
)
from weft.balancing.series import EngineSeries, FrontEndSeries, Series, histogram_names, signal_names
from weft.balancing.settings import PresetSettings, RoleSwitchSettings

SIGNAL_LABEL = "weft_signal"

ENGINE_REQUIRED = ("running", "waiting", "age", "targets")
FRONT_REQUIRED = ("requests_short", "requests_long", "age", "jobs")

_LABELS = ("namespace", "pod", "model_name", "model", "le", "job", "instance", "dp_rank", "__name__", "mode")
WINDOWS = ("$scrape", "$short", "$long", "$recent", "$step", "$past")
PAST_SECONDS = 1200.0
"""What a fleet must have carried before it may get smaller."""


@dataclass(frozen=True)
class Windows:
    """The ranges of a source's queries, in seconds."""

    scrape_seconds: float

    @property
    def short_seconds(self) -> float:
        # Four scrapes, or 20 s with fewer; at least three: a rate needs two, also where one is missing.
        scrape = self.scrape_seconds
        return max(15.0, min(4 * scrape, 20.0), 3 * scrape)

    @property
    def long_seconds(self) -> float:
        return 4 * self.short_seconds

    @property
    def past_windows(self) -> int:
        """Long windows in the past, at least: they begin at absolute multiples."""
        return int(PAST_SECONDS // self.long_seconds)

    def fill(self, expression: str) -> str:
        """The expression with its ranges put in. `$recent` plus one short range is the long one."""
        values = {
            "$scrape": self.scrape_seconds,
            "$short": self.short_seconds,
            "$long": self.long_seconds,
            "$recent": self.long_seconds - self.short_seconds,
            "$step": self.short_seconds / 3,
            "$past": PAST_SECONDS,
        }
        for name, seconds in values.items():
            expression = expression.replace(name, f"{round(seconds * 1000)}ms")
        return expression


@dataclass(frozen=True)
class Preset:
    """The expressions of one stack of engine and front end."""

    name: str
    engine: Mapping[str, str]
    """Expression by signal: the fields of EngineSeries, all of ENGINE_REQUIRED among them."""
    front_end: Mapping[str, str]
    """Expression by signal: the fields of FrontEndSeries, all of FRONT_REQUIRED among them."""
    kv_hold_seconds: float
    """How long after a prefill replica's last request its KV caches may still be read by decode replicas."""
    role_switch: RoleSwitchSettings | None = None
    """How its engines change their stage by an HTTP call; None: they do not."""
    kv_use_tells_reads: bool = False
    """Whether a prefill engine's KV use stays above zero until its KV caches were read or their lease ended. Of vLLM,
    which was seen to; another engine's figure may be from before its last prompt."""
    counts_after_prefill: bool = False
    """Whether the front end counts a request only when it has passed prefill: what waits there is then not counted."""

    def query(self, windows: Windows) -> str:
        """One query for everything: the signals' expressions, told apart by a label, at one instant."""
        # A line of its own for the label: an expression may end with a comment.
        parts = [
            f'label_replace({windows.fill(expression)}\n, "{SIGNAL_LABEL}", "{kind}:{signal}", "", "")'
            for kind, expressions in (("engine", self.engine), ("front", self.front_end))
            for signal, expression in expressions.items()
        ]
        return "\nor ".join(parts)

    def series_of(self, part: str, signal: str) -> str:
        """The name of a series that a signal is out of, for people: the newest of several. Empty where it has none."""
        expression = (self.engine if part == "engine" else self.front_end).get(signal, "")
        # Names of metrics, unlike labels and functions, stand before braces, ranges, or the end of an aggregation.
        found = re.findall(r"([a-zA-Z_][\w:]*)(?:\{[^}]*\})?(?:\[|\))", expression)
        return next((one for one in found if one not in _LABELS), "")


_NIXL_HOLD_SECONDS = 30.0
"""vLLM's NIXL connector leases blocks for 30 s in new versions."""

_SGLANG_SWITCH = RoleSwitchSettings(
    port=30000,
    path="/pd_role_switch",
    body={"prefill": {"new_role": "prefill"}, "decode": {"new_role": "decode"}},
    # /server_info goes on telling what the engine was started with.
    role_path="/model_info",
    role_field="disaggregation_mode",
    role={"prefill": "prefill", "decode": "decode"},
    unchanged_field="safe_to_restore",
)
"""Of SGLang 0.5.23 with --enable-pd-role-switch."""

VLLM = Preset("vllm", VLLM_ENGINES, ENDPOINT_PICKER, _NIXL_HOLD_SECONDS, kv_use_tells_reads=True)

PRESETS: Mapping[str, Preset] = {
    one.name: one
    for one in (
        VLLM,
        Preset(
            "vllm-router",
            VLLM_ENGINES,
            VLLM_ROUTER,
            _NIXL_HOLD_SECONDS,
            kv_use_tells_reads=True,
            counts_after_prefill=True,
        ),
        Preset("vllm-smg", VLLM_ENGINES, SMG, _NIXL_HOLD_SECONDS, kv_use_tells_reads=True),
        Preset("sglang", SGLANG_ENGINES, SMG, _NIXL_HOLD_SECONDS, _SGLANG_SWITCH),
        Preset("sglang-epp", SGLANG_ENGINES, ENDPOINT_PICKER, _NIXL_HOLD_SECONDS, _SGLANG_SWITCH),
        Preset("dynamo", DYNAMO_WORKERS, DYNAMO_FRONTEND, _NIXL_HOLD_SECONDS),
    )
}


def with_configured(settings: Mapping[str, PresetSettings]) -> Mapping[str, Preset]:
    """The built-in presets and those of the settings, by name; a configured one may replace a built-in one.

    Raises ValueError that names the preset and says what is wrong with it.
    """
    return {**PRESETS, **{name: _configured(name, one) for name, one in settings.items()}}


def _configured(name: str, settings: PresetSettings) -> Preset:
    base = PRESETS.get(settings.inherits)
    if settings.inherits and base is None:
        raise ValueError(
            f"presets.{name}.inherits: no built-in preset {settings.inherits!r}; there are {_names(PRESETS)}"
        )
    if settings.kv_hold_seconds is None and base is None:
        raise ValueError(f"presets.{name}: kv_hold_seconds has to be set, or inherits")
    engine = {**(base.engine if base else {}), **settings.engine}
    front_end = {**(base.front_end if base else {}), **settings.front_end}
    problems = [
        *_problems("engine", engine, EngineSeries, ENGINE_REQUIRED),
        *_problems("front_end", front_end, FrontEndSeries, FRONT_REQUIRED),
    ]
    if problems:
        raise ValueError("; ".join(f"presets.{name}.{problem}" for problem in problems))
    hold = settings.kv_hold_seconds
    return Preset(
        name=name,
        engine=engine,
        front_end=front_end,
        kv_hold_seconds=base.kv_hold_seconds if hold is None and base else hold or 0.0,
        role_switch=settings.role_switch or (base.role_switch if base else None),
        # One that reads another series may mean something else by it.
        kv_use_tells_reads=base is not None and base.kv_use_tells_reads and "kv_usage" not in settings.engine,
        counts_after_prefill=base is not None and base.counts_after_prefill,
    )


def _problems(
    part: str, expressions: Mapping[str, str], kind: type[Series], required: tuple[str, ...]
) -> Iterator[str]:
    known = (*signal_names(kind), *histogram_names(kind))
    for signal, expression in expressions.items():
        if signal not in known:
            yield f"{part}.{signal}: unknown signal; there are {_names(known)}"
        elif not expression.strip():
            yield f"{part}.{signal}: is empty"
        else:
            # $1 and the like belong to PromQL's label_replace.
            for window in sorted({*re.findall(r"\$[A-Za-z_]\w*", expression)} - {*WINDOWS}):
                yield f"{part}.{signal}: unknown range {window}; there are {_names(WINDOWS)}"
    for signal in required:
        if signal not in expressions:
            yield f"{part}.{signal}: is required"


def _names(names: Mapping[str, object] | tuple[str, ...]) -> str:
    return ", ".join(names)

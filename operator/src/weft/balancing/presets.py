"""Sets of metric names, as data: which PromQL answers which question about an engine or a front end.

An expression may use `$short`, `$long`, `$recent`, `$step` and `$scrape` for the source's windows, and has to
aggregate `by (namespace, pod)` for engines or `by (namespace, model_name)` for the front end (histograms: also
`le`). No expression names a tenant, a pod or a model: one query answers for all groups, and what belongs to
whom is sorted out from the labels afterwards. So no text of a user ever becomes part of a query.

Presets are the administrator's; a group only names one. The built-in ones are here, more come from the settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from weft.balancing.series import EngineSeries, FrontEndSeries, Series, histogram_names, signal_names
from weft.balancing.settings import PresetSettings

SIGNAL_LABEL = "weft_signal"

ENGINE_REQUIRED = ("running", "waiting", "age", "targets")
FRONT_REQUIRED = ("requests_short", "requests_long", "age", "jobs")

WINDOWS = ("$scrape", "$short", "$long", "$recent", "$step")


@dataclass(frozen=True)
class Windows:
    """The ranges of a source's queries, in seconds. A rate needs several scrapes in its range."""

    scrape_seconds: float

    @property
    def short_seconds(self) -> float:
        return max(15.0, 4 * self.scrape_seconds)

    @property
    def long_seconds(self) -> float:
        return 4 * self.short_seconds

    def fill(self, expression: str) -> str:
        """The expression with its ranges put in. `$recent` plus one short range is the long one."""
        values = {
            "$scrape": self.scrape_seconds,
            "$short": self.short_seconds,
            "$long": self.long_seconds,
            "$recent": self.long_seconds - self.short_seconds,
            "$step": self.short_seconds / 3,
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

    def query(self, windows: Windows) -> str:
        """One query for everything: the signals' expressions, told apart by a label, at one instant."""
        # A line of its own for the label: an expression may end with a comment.
        parts = [
            f'label_replace({windows.fill(expression)}\n, "{SIGNAL_LABEL}", "{kind}:{signal}", "", "")'
            for kind, expressions in (("engine", self.engine), ("front", self.front_end))
            for signal, expression in expressions.items()
        ]
        return "\nor ".join(parts)


def _pod(expression: str) -> str:
    return f"sum by (namespace, pod) ({expression})"


def _model(expression: str) -> str:
    return f"sum by (namespace, model_name) ({expression})"


def _buckets(metric: str, subject: str) -> str:
    return f"sum by (namespace, {subject}, le) (rate({metric}_bucket[$long]))"


def _peak(metric: str) -> str:
    return f"max_over_time(({_model(f'rate({metric}[$short])')})[$recent:$step])"


_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_ITL = "vllm:inter_token_latency_seconds"
_ARRIVED = "inference_objective_request_total"
_PROMPT = "inference_objective_input_tokens"
_ANSWER = "inference_objective_output_tokens"

VLLM = Preset(
    name="vllm",
    engine={
        "running": _pod(_RUNNING),
        "waiting": _pod(_WAITING),
        "age": f"max by (namespace, pod) (time() - timestamp({_RUNNING}))",
        # Data parallel ranks are several series of one target and add up; a pod scraped twice does not.
        "targets": f"count by (namespace, pod) (count by (namespace, pod, job, instance) ({_RUNNING}))",
        "resets": "max by (namespace, pod) (resets(vllm:generation_tokens_total[$long]))",
        "prompt_tokens_per_second": _pod("rate(vllm:prompt_tokens_total[$long])"),
        "generated_tokens_per_second": _pod("rate(vllm:generation_tokens_total[$short])"),
        "busy_share": f"avg_over_time(clamp_max({_pod(_RUNNING)}, 1)[$long:$scrape])",
        "mean_running": _pod(f"avg_over_time({_RUNNING}[$long])"),
        "itl_seconds_per_second": _pod(f"rate({_ITL}_sum[$long])"),
        "itl_count_per_second": _pod(f"rate({_ITL}_count[$long])"),
        "itl_buckets": _buckets(_ITL, "pod"),
    },
    # The names of the Gateway API inference extension's endpoint picker.
    front_end={
        "requests_short": _model(f"rate({_ARRIVED}[$short])"),
        "requests_long": _model(f"rate({_ARRIVED}[$long])"),
        "age": f"max by (namespace, model_name) (time() - timestamp({_ARRIVED}))",
        # Several front ends add up; one that two scrape jobs report would count twice.
        "jobs": f"count by (namespace, model_name) (count by (namespace, model_name, job) ({_ARRIVED}))",
        "resets": f"max by (namespace, model_name) (resets({_ARRIVED}[$long]))",
        "prompts_short": _model(f"rate({_PROMPT}_count[$short])"),
        "prompts_long": _model(f"rate({_PROMPT}_count[$long])"),
        "prompt_tokens_short": _model(f"rate({_PROMPT}_sum[$short])"),
        "prompt_tokens_long": _model(f"rate({_PROMPT}_sum[$long])"),
        "prompt_tokens_peak": _peak(f"{_PROMPT}_sum"),
        "answers_short": _model(f"rate({_ANSWER}_count[$short])"),
        "answers_long": _model(f"rate({_ANSWER}_count[$long])"),
        "answer_tokens_short": _model(f"rate({_ANSWER}_sum[$short])"),
        "answer_tokens_long": _model(f"rate({_ANSWER}_sum[$long])"),
        "answer_tokens_peak": _peak(f"{_ANSWER}_sum"),
        "prompt_buckets": _buckets(_PROMPT, "model_name"),
        "answer_buckets": _buckets(_ANSWER, "model_name"),
        "ttft_buckets": _buckets("inference_objective_request_ttft_seconds", "model_name"),
    },
    # vLLM's NIXL connector leases blocks for 30 s in new versions.
    kv_hold_seconds=30.0,
)

PRESETS: Mapping[str, Preset] = {VLLM.name: VLLM}


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

"""The names under which engines and what stands before them export their figures, and when each is counted.

Signals with their PromQL, as `presets` put them together. Where a name changed between versions the newest comes
first and the older ones fill in, per pod or model: `or` never adds two of them up, although some exporters write both.
docs/engines.md says which versions were run or read, and where.

What is counted when:

- Endpoint picker, llm-d's router: a request after scheduling, so those in flow control's queue not yet; lengths and the
  time to first token when its answer ends (the latter only with llm-d's, or with the latency predictor).
- vLLM's router: a request when decode begins to answer it, so those that wait for prefill not yet. No lengths, no time
  to first token, no name of a model.
- smg (SGLang's router): a request when it arrives; the time to first token at the first token. No lengths.
- Dynamo's frontend: a request when it arrives; prompt length and time to first token at the first token; the answer's
  length when it ends.
- vLLM and SGLang: a request with its lengths when their part of it ends, which for prefill is the first token.
"""

from __future__ import annotations

from collections.abc import Mapping

Expressions = Mapping[str, str]


def _pod(*expressions: str, how: str = "sum") -> str:
    """By pod: the first of these that it has."""
    return " or ".join(f"{how} by (namespace, pod) ({one})" for one in expressions)


def _pod_histogram(*metrics: str) -> str:
    return " or ".join(f"sum by (namespace, pod, le) (rate({one}_bucket[$long]))" for one in metrics)


def _first(*parts: Expressions) -> Expressions:
    """Several engines that may stand behind one front end: per pod whichever it has."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: " or ".join(part[name] for part in parts if name in part) for name in names}


def _seen(metric: str, own: str, of: str) -> Expressions:
    """Whether series of a target can be trusted. `own`: labels by which one target tells its series apart."""
    where = "job, instance"
    return {
        "age": f"max by ({of}) (time() - timestamp({metric}))",
        # What two jobs scrape counts twice; ranks do not, be they of one target or each at a port of its own.
        "targets": f"max by ({of}) (count by ({of}, {own}) (count by ({of}, {where}, {own}) ({metric})))",
        # Only replicas of Prometheus give one series of one target several times, with labels of their own.
        "copies": f"max by ({of}) (count by ({of}, {where}, {own}) ({metric}))",
    }


_V_RUNNING = "vllm:num_requests_running"
_V_WAITING = "vllm:num_requests_waiting"
_V_ITL = "vllm:inter_token_latency_seconds"
_V_ITL_BEFORE = "vllm:time_per_output_token_seconds"  # until 0.10
_V_SOURCE = 'vllm:prompt_tokens_by_source_total{source!="external_kv_transfer"}'

_VLLM: Expressions = {
    "running": _pod(_V_RUNNING),
    "waiting": _pod(_V_WAITING),
    "waiting_growth_short": _pod(f"deriv({_V_WAITING}[$short])"),
    "waiting_growth_long": _pod(f"deriv({_V_WAITING}[$long])"),
    # Ranks of data parallelism have a KV cache of one size each: of all of them together their mean is used.
    "kv_usage": _pod("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", how="avg"),
    # Of the two connectors that count it; Mooncake's from 0.33 on.
    "kv_unread": _pod(
        *(f"increase(vllm:{one}_num_kv_expired_reqs_total[$past])" for one in ("nixl", "mooncake"))
    ),
    "resets": _pod("resets(vllm:request_success_total[$long])", how="max"),
    "ended": _pod("vllm:request_success_total"),
    # A prompt that decode pulled from prefill is no work of decode's, although prompt_tokens_total counts it.
    "prompt_tokens_per_second": _pod(f"rate({_V_SOURCE}[$long])", "rate(vllm:prompt_tokens_total[$long])"),
    "generated_tokens_per_second": _pod(
        "rate(vllm:generation_tokens_total[$short])", f"rate({_V_ITL}_count[$short])"
    ),
    "busy_share": f"avg_over_time(clamp_max({_pod(_V_RUNNING)}, 1)[$long:$scrape])",
    "mean_running": _pod(f"avg_over_time({_V_RUNNING}[$long])"),
    "itl_seconds_per_second": _pod(f"rate({_V_ITL}_sum[$long])", f"rate({_V_ITL_BEFORE}_sum[$long])"),
    "itl_count_per_second": _pod(f"rate({_V_ITL}_count[$long])", f"rate({_V_ITL_BEFORE}_count[$long])"),
    "itl_buckets": _pod_histogram(_V_ITL, _V_ITL_BEFORE),
    "ended_short": _pod("rate(vllm:request_prompt_tokens_count[$short])"),
    "ended_long": _pod("rate(vllm:request_prompt_tokens_count[$long])"),
    "ended_prompt_tokens_short": _pod("rate(vllm:request_prompt_tokens_sum[$short])"),
    "ended_prompt_tokens_long": _pod("rate(vllm:request_prompt_tokens_sum[$long])"),
    "ended_answer_tokens_short": _pod("rate(vllm:request_generation_tokens_sum[$short])"),
    "ended_answer_tokens_long": _pod("rate(vllm:request_generation_tokens_sum[$long])"),
    "prompt_buckets": _pod_histogram("vllm:request_prompt_tokens"),
    "answer_buckets": _pod_histogram("vllm:request_generation_tokens"),
    "ttft_buckets": _pod_histogram("vllm:time_to_first_token_seconds"),
}
VLLM_ENGINES: Expressions = {**_VLLM, **_seen(_V_RUNNING, "engine, model_name", "namespace, pod")}

# With priority scheduling SGLang adds series per priority to the total, whose priority is empty; with metrics of all
# schedulers one per tensor parallel rank, which all say the same.
_S_RANKS = "namespace, pod, dp_rank"
_S_RUNNING = f'max by ({_S_RANKS}) (sglang:num_running_reqs{{priority=""}})'
_S_QUEUES = "|".join(
    f"num_{queue}_reqs"
    for queue in ("queue", "prefill_bootstrap_queue", "decode_prealloc_queue", "decode_transfer_queue")
)
_S_WAITING = f'max by ({_S_RANKS}, __name__) ({{__name__=~"sglang:({_S_QUEUES})", priority=""}})'
_S_ITL = "sglang:inter_token_latency_seconds"
_S_PREFILLED = 'rate(sglang:realtime_tokens_total{mode=~"prefill_.*"}[$long])'

_SGLANG: Expressions = {
    "running": _pod(_S_RUNNING),
    "waiting": _pod(_S_WAITING),
    "waiting_growth_short": f"deriv(({_pod(_S_WAITING)})[$short:$scrape])",
    "waiting_growth_long": f"deriv(({_pod(_S_WAITING)})[$long:$scrape])",
    "kv_usage": _pod(f"max by ({_S_RANKS}) (sglang:token_usage)", how="avg"),
    "resets": _pod("resets(sglang:num_requests_total[$long])", how="max"),
    "ended": _pod("sglang:num_requests_total"),
    "prompt_tokens_per_second": _pod(
        f"max by ({_S_RANKS}, mode) ({_S_PREFILLED})", "rate(sglang:prompt_tokens_total[$long])"
    ),
    # generation_tokens_total is counted when answers end, the time between tokens as they are written.
    "generated_tokens_per_second": _pod(f"rate({_S_ITL}_count[$short])"),
    "busy_share": f"avg_over_time(clamp_max({_pod(_S_RUNNING)}, 1)[$long:$scrape])",
    "mean_running": f"avg_over_time(({_pod(_S_RUNNING)})[$long:$scrape])",
    "itl_seconds_per_second": _pod(f"rate({_S_ITL}_sum[$long])"),
    "itl_count_per_second": _pod(f"rate({_S_ITL}_count[$long])"),
    "itl_buckets": _pod_histogram(_S_ITL),
    "ended_short": _pod("rate(sglang:num_requests_total[$short])"),
    "ended_long": _pod("rate(sglang:num_requests_total[$long])"),
    "ended_prompt_tokens_short": _pod("rate(sglang:prompt_tokens_total[$short])"),
    "ended_prompt_tokens_long": _pod("rate(sglang:prompt_tokens_total[$long])"),
    "ended_answer_tokens_short": _pod("rate(sglang:generation_tokens_total[$short])"),
    "ended_answer_tokens_long": _pod("rate(sglang:generation_tokens_total[$long])"),
    "prompt_buckets": _pod_histogram("sglang:prompt_tokens_histogram"),
    "answer_buckets": _pod_histogram("sglang:generation_tokens_histogram"),
    "ttft_buckets": _pod_histogram("sglang:time_to_first_token_seconds"),
}
SGLANG_ENGINES: Expressions = {
    **_SGLANG,
    **_seen(
        'sglang:num_running_reqs{priority=""}',
        "engine_type, model_name, tp_rank, pp_rank, dp_rank, moe_ep_rank",
        "namespace, pod",
    ),
}

_D_GENERATE = 'dynamo_endpoint="generate"'
_D_INFLIGHT = "dynamo_component_inflight_requests"
_D_PREFILL = f'sum by (namespace, pod) ({_D_INFLIGHT}{{{_D_GENERATE}, dynamo_component="prefill"}})'
_D_ENDED = f'dynamo_component_request_duration_seconds_count{{{_D_GENERATE}, dynamo_component="prefill"}}'
_D_PROMPTS = "dynamo_frontend_input_sequence_tokens"
_D_OTHERS = f'sum by (namespace, pod) ({_D_INFLIGHT}{{{_D_GENERATE}, dynamo_component!="prefill"}})'

# Dynamo's workers export their engine's series too, but for the simulator's prefill workers: these say only how many
# requests they have and have ended, and work on one prompt at a time. Their mean length the frontend knows.
DYNAMO_WORKERS: Expressions = {
    **_first(
        _VLLM,
        _SGLANG,
        {
            "running": f"clamp_max({_D_PREFILL}, 1) or {_D_OTHERS}",
            "waiting": f"clamp_min({_D_PREFILL} - 1, 0) or 0 * {_D_OTHERS}",
            "busy_share": f"avg_over_time((clamp_max({_D_PREFILL}, 1))[$long:$scrape])",
            "prompt_tokens_per_second": f"sum by (namespace, pod) (rate({_D_ENDED}[$long]))"
            f" * on (namespace) group_left () (sum by (namespace) (rate({_D_PROMPTS}_sum[$long]))"
            f" / (sum by (namespace) (rate({_D_PROMPTS}_count[$long])) > 0))",
        },
    ),
    "resets": _pod("resets(dynamo_component_requests_total[$long])", how="max"),
    **_seen(
        f"{_D_INFLIGHT}{{{_D_GENERATE}}}",
        "dynamo_namespace, dynamo_component, dynamo_endpoint, worker_id",
        "namespace, pod",
    ),
}


def _front_end(
    requests: tuple[str, ...],
    own: str,
    *,
    label: str = "model_name",
    prompts: tuple[str, ...] = (),
    answers: tuple[str, ...] = (),
    first_token: tuple[str, ...] = (),
    queued: tuple[str, ...] = (),
) -> Expressions:
    """The signals of a front end, by its metrics' names, newest first. `label`: where the model is."""

    of = f"namespace, {label}"

    def named(expression: str) -> str:
        """With the model's name where Weft looks for it."""
        if label == "model_name":
            return expression
        return f'label_replace({expression}, "model_name", "$1", "{label}", "(.*)")'

    def any_of(metrics: tuple[str, ...], query: str, by: str = "", how: str = "sum") -> str:
        return " or ".join(named(f"{how} by ({of}{by}) ({query.replace('METRIC', one)})") for one in metrics)

    seen = [_seen(one, own, of) for one in requests]
    found = {name: " or ".join(named(one[name]) for one in seen) for name in ("age", "copies")}
    # By job: several instances of one front end add up, and one that two jobs scrape would count twice.
    found["jobs"] = any_of(requests, f"count by ({of}, job) (METRIC)", how="count")
    found["resets"] = any_of(requests, "resets(METRIC[$short])", how="max")
    for window in ("short", "long"):
        found[f"requests_{window}"] = any_of(requests, f"rate(METRIC[${window}])")
        for name, tokens, metrics in (
            ("prompts", "prompt_tokens", prompts),
            ("answers", "answer_tokens", answers),
        ):
            if metrics:
                found[f"{name}_{window}"] = any_of(metrics, f"rate(METRIC_count[${window}])")
                found[f"{tokens}_{window}"] = any_of(metrics, f"rate(METRIC_sum[${window}])")
        if queued:
            found[f"queue_growth_{window}"] = any_of(queued, f"deriv(METRIC[${window}])")
    if queued:
        found["queued"] = any_of(queued, "max_over_time(METRIC[$long])")
    for name, metrics in (("prompt", prompts), ("answer", answers), ("ttft", first_token)):
        if metrics:
            found[f"{name}_buckets"] = any_of(metrics, "rate(METRIC_bucket[$long])", ", le")
    arrived = any_of(requests, "rate(METRIC[$long])")
    found["past_windows"] = f"count_over_time(({arrived})[$past:$long])"
    found["requests_past"] = f"max_over_time(({arrived})[$past:$long])"
    for name, metrics in (("prompt_tokens_past", prompts), ("answer_tokens_past", answers)):
        if metrics:
            found[name] = f"max_over_time(({any_of(metrics, 'rate(METRIC_sum[$long])')})[$past:$long])"
    for name, metrics in (("prompt_buckets_past", prompts), ("answer_buckets_past", answers)):
        if metrics:
            found[name] = any_of(metrics, "rate(METRIC_bucket[$past])", ", le")
    for name, metrics in (("prompt_tokens_peak", prompts), ("answer_tokens_peak", answers)):
        if metrics:
            found[name] = f"max_over_time(({any_of(metrics, 'rate(METRIC_sum[$short])')})[$recent:$step])"
    return found


_EPP = ("llm_d_epp", "inference_objective", "inference_model")

ENDPOINT_PICKER: Expressions = _front_end(
    tuple(f"{one}_request_total" for one in _EPP),
    "target_model_name, priority, fairness_id",
    prompts=("llm_d_epp_request_input_tokens", *(f"{one}_input_tokens" for one in _EPP[1:])),
    answers=("llm_d_epp_request_output_tokens", *(f"{one}_output_tokens" for one in _EPP[1:])),
    first_token=tuple(f"{one}_request_ttft_seconds" for one in _EPP),
    queued=("llm_d_epp_flow_control_queue_size", "inference_extension_flow_control_queue_size"),
)
VLLM_ROUTER: Expressions = _front_end(("vllm_router_pd_requests_total",), "route")
SMG: Expressions = _front_end(
    ("smg_router_requests_total",),
    "router_type, backend_type, connection_mode, endpoint, streaming",
    label="model",
    first_token=("smg_pd_ttft_seconds", "smg_router_ttft_seconds"),
)
DYNAMO_FRONTEND: Expressions = _front_end(
    ("dynamo_frontend_requests_started_total",),
    "endpoint, request_type",
    label="model",
    prompts=("dynamo_frontend_input_sequence_tokens",),
    answers=("dynamo_frontend_output_sequence_tokens",),
    first_token=("dynamo_frontend_time_to_first_token_seconds",),
)

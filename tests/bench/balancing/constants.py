"""What the comparison is made of. Committed before its results; results name the commit.

Hardware is the published profile of hack/playground/data (Llama-2-70B on two A100s). `TUNING` seeds and the first half
of the recorded trace are for trying things out, of Weft's as of others'; only `REPORTED` ones are published.
"""

from __future__ import annotations

from weft.rehearse.opponents import DynamoSettings

TTFT_MILLISECONDS = 2500
ITL_MICROSECONDS = 95_000
ATTAINMENT_PERMILLE = 950

TUNING = (101, 102, 103, 104, 105)
REPORTED = (1, 2, 3, 4, 5)

SCRAPE_SECONDS = (1.0, 5.0, 15.0)
FLIP_SECONDS = 2.0
"""From the end of the drain (or, without one, from the decision) to the first request in the new role."""
SAMPLE_SECONDS = 0.25
"""How often the referee is asked; counters are exact, gauges are the last of these before a scrape."""
COOLDOWN_SECONDS = 30.0
CASE_SECONDS = 1800.0
SWING_SECONDS = 300.0

LONG_PROMPTS = (5.0, 2000.0, 80.0)
"""Requests/s, mean prompt, mean answer tokens: prefill 3.5 and decode 0.9 replicas busy."""
LONG_ANSWERS = (4.2, 450.0, 400.0)
"""Prefill 0.7 and decode 3.8 replicas busy."""
PROMPT_SPREAD, ANSWER_SPREAD = 0.6, 0.7
"""Sigma of the lengths' lognormal distributions."""

AMPLE, SCARCE, RECORDED = 9, 6, 8
"""Replicas in the alternating, scarce and recorded cases; `RANDOM` for the others."""
RANDOM = 8
RANDOM_STRETCH_SECONDS = (60.0, 600.0)
RANDOM_LOAD = (0.55, 0.85)
"""Busy replicas of both stages over all replicas, drawn anew in each stretch, with the mix."""
STATIC_LOAD = 1.25
"""Static splits are left out in which a stage is offered this many times what it can carry on average: they are never
the best, and their queues take the referee minutes."""

ACCELERATORS_PER_REPLICA = 2
AGGREGATED_CHUNK_TOKENS = 2048
"""Of an aggregated replica's prompts; 8,192 and more meet the same within two points."""
MIXED_SHARES = (0.8, 1.0, 1.2)
"""Of a mixture's requests go to the aggregated replicas: these times their part of the replicas, whatever is best."""

SHIPPED = DynamoSettings(interval_seconds=30.0, load_interval_seconds=5.0, sensitivity=0.8)
"""NVIDIA Dynamo's planner as the wheel has it: the best of 30 and 60 s, each with and without its loop by load, on two
cases of seed 101 (77.9 % on average; 77.4, 72.7 and 72.2 % the others)."""

WATTS = 400.0
"""Of an accelerator that is held: an A100 SXM's limit by NVIDIA's data sheet. What it draws is less."""
PRICE = 2.0
"""US dollars for an A100 with 80 GB for an hour: the middle of what was asked without commitment in 2026."""

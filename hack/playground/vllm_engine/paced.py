"""A vLLM worker on the CPU whose steps take as long as the measured hardware's; runs in vLLM's own environment.

Scheduler, KV cache manager, KV transfer, API server, metrics and the forward pass (of a tiny model) are vLLM's own; the
worker then sleeps for the rest of the time that the profile gives, so that a split matters. `PACE_SEED` and
`PACE_REPLICA` make the engine's true speed, as they do for the playground's engines; how late steps end goes to
`PACE_LAG_FILE`.
"""

import os
import time
from pathlib import Path

from vllm.v1.worker.cpu_worker import CPUWorker

from weft_playground.lag import LagMeter, write_lag
from weft_playground.profile import read_profile, speed_error

WRITE_SECONDS = 2.0


class PacedWorker(CPUWorker):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._profile = read_profile()
        self._error = speed_error(int(os.environ["PACE_SEED"]), int(os.environ["PACE_REPLICA"]))
        self._lag = LagMeter()
        self._lag_file = Path(os.environ["PACE_LAG_FILE"])
        self._written = 0.0

    def execute_model(self, scheduler_output):
        begun = time.monotonic()
        output = super().execute_model(scheduler_output)
        scheduled = scheduler_output.num_scheduled_tokens.values()
        prompt_tokens = sum(tokens for tokens in scheduled if tokens > 1)
        streams = sum(1 for tokens in scheduled if tokens == 1)
        if scheduled:
            self._wait(begun, prompt_tokens, streams)
        return output

    def _wait(self, begun: float, prompt_tokens: int, streams: int) -> None:
        seconds = self._profile.prefill(prompt_tokens) * self._error.prefill if prompt_tokens else 0.0
        seconds += self._profile.decode(streams) * self._error.decode if streams else 0.0
        due = begun + seconds
        time.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        self._lag.observe(now - due)
        if now - self._written > WRITE_SECONDS:
            self._written = now
            draft = self._lag_file.with_suffix(".part")
            write_lag(draft, self._lag.lag("engine"))
            draft.replace(self._lag_file)

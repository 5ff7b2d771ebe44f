"""What the demo plays: which stretches of the trace, on how many replicas, from which split on."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from weft_playground.trace import Request, Stretch, play, read_trace, thinned

AUTO = "demo-auto"
PAUSED = "demo-paused"
MODES = {AUTO: "Auto", PAUSED: "Paused"}
"""Of each group, by its namespace."""
ACCELERATORS_PER_REPLICA = 2
REPLICAS = {"playground": 10, "vllm": 6, "dynamo": 6}
"""By engines: as many real ones as two cores can step in time. The load is thinned as much."""
ENGINES = tuple(REPLICAS)
STEP_TOKENS = {"playground": 0, "vllm": 2048, "dynamo": 0}
"""By engines: how many tokens of several prompts they compute in one step; 0: a prompt at a time."""
PICKS_OF_TWO = ("vllm",)
"""Engines whose front end picks the better of two replicas, as vLLM's router does."""
NODE_COUNT = 26
# README.md says how these were chosen. Superposing a second minute brings the first stretch to
# the request rate of the second, so that the mix shifts and not the rate.
FIRST = Stretch(start_minute=55, seconds=40, second_copy_minute=48, second_copy_permille=1000)
SECOND = Stretch(start_minute=27, seconds=110)
DEFAULT_SEED = 4
SEEDS = {"playground": DEFAULT_SEED, "vllm": 8, "dynamo": 8}
"""By engines: hardware with which either stretch has a good split, and not the same one."""


@dataclass(frozen=True)
class Split:
    """Replicas per stage."""

    prefill: int
    decode: int

    @classmethod
    def parse(cls, text: str) -> Split:
        """`3:6`. Raises ValueError with what to write."""
        prefill, colon, decode = text.partition(":")
        if not colon or not prefill.isdigit() or not decode.isdigit() or 0 in (int(prefill), int(decode)):
            raise ValueError(
                f"{text!r} is no split: write prefill:decode, at least one of each, for example 3:6"
            )
        return cls(int(prefill), int(decode))

    @property
    def replicas(self) -> int:
        return self.prefill + self.decode

    def __str__(self) -> str:
        return f"{self.prefill}:{self.decode}"


@dataclass(frozen=True)
class Case:
    """What a user may change. `split` None: the one that suits the first stretch best."""

    offset_minutes: float = 0.0
    seed: int = DEFAULT_SEED
    split: Split | None = None
    engines: str = "playground"

    @property
    def replicas(self) -> int:
        return self.split.replicas if self.split is not None else REPLICAS[self.engines]

    @property
    def step_tokens(self) -> int:
        return STEP_TOKENS[self.engines]

    def chance(self, draw: int = 0) -> Random | None:
        """What the front end picks by, if it leaves anything to it."""
        return Random(f"picks {draw}") if self.engines in PICKS_OF_TWO else None

    def requests(self) -> list[Request]:
        """All that is sent."""
        whole = play(read_trace(), self.stretches, offset_minutes=self.offset_minutes)
        return thinned(whole, REPLICAS[self.engines] / REPLICAS["playground"])

    @property
    def stretches(self) -> tuple[Stretch, Stretch]:
        return FIRST, SECOND

    @property
    def shift_seconds(self) -> float:
        """When the mix shifts, from the start of the load."""
        return FIRST.seconds

    @property
    def load_seconds(self) -> float:
        return FIRST.seconds + SECOND.seconds

"""What goes wrong in one run of the fault suite, and what its users do meanwhile: a pure function of the seed.

The fault model, beyond which no operator can promise anything at a manager that cannot be fenced: a call takes
effect at most LATE_SECONDS after it was sent, and what is read is at most STALE_SECONDS old; together they stay
within `settleSeconds` after the call's timeout. Everything ends at FAULT_SECONDS.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from support.wire import Message, Treatment, WatchWay, Way

FAULT_SECONDS = 6.0
SETTLE_SECONDS = 2
TIMEOUT_SECONDS = 1
LATE_SECONDS = 2.0
STALE_SECONDS = 0.7

HOSTS, GPUS, MEMORIES = 3, 4, 2
TENANTS = ("a", "b")
NAMES = ("one", "two")


@dataclass(frozen=True)
class Episode:
    """From `start` to `end` each message of the scope is treated so, with the given chance."""

    start: float
    end: float
    scope: str
    chance: float
    treatment: Treatment | WatchWay


@dataclass(frozen=True)
class Act:
    """What a user, an administrator or a machine does at a time. `pick` chooses among what there is then."""

    at: float
    verb: str
    tenant: str = ""
    name: str = ""
    gpus: int = 0
    memory: bool = False
    pick: int = 0
    seconds: float = 0.0
    replaces: bool = False
    """Whether its failed devices are to be replaced."""
    urgent: bool = False
    """Whether it has a priority for which others give way, where pools allow it."""


@dataclass(frozen=True)
class Schedule:
    """One run. `name` is the seed's number, or says what the run is about."""

    name: str
    emulator: tuple[str, ...]
    """Flags of the fabric manager."""
    acts: tuple[Act, ...]
    episodes: tuple[Episode, ...]
    seconds: float = FAULT_SECONDS
    preempts: bool = False
    """Whether the pools allow preemption."""

    def __str__(self) -> str:
        lines = [f"{self.name}, emulator {' '.join(self.emulator)}"]
        lines += [
            f"  {e.start:.1f}-{e.end:.1f} s {e.scope} {e.chance:.2f} {e.treatment}" for e in self.episodes
        ]
        lines += [f"  {a.at:.1f} s {a.verb} {a.tenant}/{a.name} pick {a.pick}" for a in self.acts]
        return "\n".join(lines)


def make(seed: int) -> Schedule:
    """The run of this seed."""
    rng = random.Random(f"weft faults {seed}")
    flags = ["--permissive", "--seed", str(seed)]
    if rng.random() < 0.4:
        flags += ["--async-tasks", "--latency-ms", str(rng.choice((50, 200, 400)))]
    elif rng.random() < 0.3:
        flags += ["--latency-ms", str(rng.choice((20, 100)))]
    if rng.random() < 0.4:
        flags += ["--page-size", str(rng.choice((2, 3)))]
    scopes = [*ALWAYS, *rng.choices(list(SCOPES), list(SCOPES.values()), k=2)]
    episodes = [_episode(rng, scope) for scope in scopes]
    acts = sorted(_acts(rng), key=lambda act: act.at)
    # By dice of their own: the rest of a seed stays.
    dice = random.Random(f"weft changes {seed}")
    preempts = random.Random(f"weft preemption {seed}").random() < 0.5
    changes = _changes(dice)
    acts = [_with_policies(act, dice, preempts) if act.verb == "create" else act for act in acts]
    acts = sorted([*acts, *changes], key=lambda act: act.at)
    return Schedule(str(seed), tuple(flags), tuple(acts), tuple(episodes), preempts=preempts)


DIRECTED = (
    Schedule(
        "late-after-release",
        ("--permissive",),
        (
            Act(0.0, "create", "a", "one", gpus=GPUS),
            Act(1.3, "delete", "a", "one"),
            Act(1.4, "create", "b", "one", gpus=GPUS),
        ),
        (Episode(0.0, 1.8, "fabric write", 1.0, Treatment(delay=LATE_SECONDS)),),
    ),
    Schedule(
        "late-after-its-repeat-was-taken-back",
        ("--permissive",),
        (
            Act(0.0, "create", "a", "one", gpus=GPUS),
            Act(1.6, "delete", "a", "one"),
            Act(1.65, "create", "b", "one", gpus=GPUS),
        ),
        (Episode(0.0, 0.6, "fabric write", 1.0, Treatment(delay=LATE_SECONDS)),),
    ),
    Schedule(
        "node-registers-anew-under-a-pod",
        ("--permissive",),
        (
            Act(0.0, "create", "a", "one", gpus=1),
            Act(1.5, "use", "a", "one"),
            *(Act(2.5, "untaint", pick=host) for host in range(HOSTS)),
            Act(2.7, "delete", "a", "one"),
        ),
        (),
    ),
    Schedule(
        "device-vanishes-while-it-is-released",
        ("--permissive",),
        (
            Act(0.0, "create", "a", "one", gpus=GPUS),
            Act(1.6, "vanish", pick=0, seconds=1.0),
            Act(1.7, "delete", "a", "one"),
        ),
        (),
    ),
    Schedule(
        "pods-are-not-heard-of",
        ("--permissive",),
        (
            Act(0.0, "create", "a", "one", gpus=1),
            Act(1.6, "use", "a", "one"),
            Act(2.0, "delete", "a", "one"),
        ),
        (Episode(1.5, 3.5, "pod watch", 1.0, WatchWay.HOLD),),
    ),
)
"""Runs that dice find rarely: each was a defect, or the attack that showed one."""


def _two_leaders(name: str, *verbs: str) -> Schedule:
    """The leader has an attach to repeat when it is put out of action; its claim is released meanwhile."""
    return Schedule(
        name,
        ("--permissive",),
        (
            Act(0.0, "create", "a", "one", gpus=GPUS),
            *(Act(0.8, verb, seconds=7.0 - number) for number, verb in enumerate(verbs)),
            Act(0.9, "delete", "a", "one"),
            Act(0.9, "cordon", pick=0),
            # Not before the leader that was out of action has had its try: a device elsewhere would be a conflict.
            Act(11.0, "create", "b", "one", gpus=GPUS),
        ),
        (Episode(0.0, 8.5, "fabric write", 1.0, Treatment(Way.REFUSE, status=503)),),
        seconds=13.0,
    )


TWO_LEADERS = (
    _two_leaders("leader-is-cut-off", "cut-operator"),
    # Whose watches tell it everything at once when it goes on would have nothing to repeat.
    _two_leaders("leader-is-cut-off-and-stopped", "cut-operator", "stop-operator"),
    # It has the attach of the one that preempted to repeat; whom it preempted comes back under the next leader.
    Schedule(
        "leader-is-cut-off-during-a-preemption",
        ("--permissive",),
        (
            Act(0.0, "create", "a", "one", gpus=GPUS),
            Act(3.0, "create", "b", "one", gpus=GPUS, urgent=True),
            # For as long as its pauses between tries have become by then.
            Act(4.2, "cut-operator", seconds=18.0),
            Act(4.3, "delete", "b", "one"),
            *(Act(4.3, "cordon", pick=host) for host in range(HOSTS)),
            *(Act(25.0, "uncordon", pick=host) for host in range(HOSTS)),
        ),
        (Episode(2.5, 14.0, "fabric attach", 1.0, Treatment(Way.REFUSE, status=503)),),
        seconds=27.0,
        preempts=True,
    ),
)


def _acts(rng: random.Random) -> list[Act]:
    acts = [_create(rng, 0.0), _create(rng, rng.uniform(0, 1))]
    verbs = rng.choices(list(VERBS), list(VERBS.values()), k=12)
    if rng.random() < OPERATOR_CHANCE:
        verbs.append(rng.choice(OPERATOR_VERBS))
    for verb in verbs:
        at = rng.uniform(0.6, FAULT_SECONDS - 0.3)
        if verb == "create":
            acts.append(_create(rng, at))
        else:
            acts.append(Act(at, verb, pick=rng.randrange(1000), seconds=rng.uniform(0.2, 1.5)))
    # Most trouble is with what is taken back while it is being given, or while it is in use.
    for made in [act for act in acts if act.verb == "create" and rng.random() < 0.6]:
        at = made.at + rng.uniform(0.2, 2.0)
        if rng.random() < 0.3:
            acts.append(Act(at, "use", made.tenant, made.name))
            at += rng.uniform(0.1, 1.0)
            if rng.random() < 0.2:
                acts.append(Act(at, "untaint"))
                at += 0.3
        acts.append(Act(at, "delete", made.tenant, made.name))
    return [act for act in acts if act.at < FAULT_SECONDS - 0.2]


def _changes(dice: random.Random) -> list[Act]:
    """What is changed of bound nodes, and taken out of service."""
    return [
        Act(
            dice.uniform(0.6, FAULT_SECONDS - 0.3),
            verb,
            pick=dice.randrange(1000),
            gpus=dice.randint(1, 3),
            seconds=dice.uniform(0.5, 2.5),
        )
        for verb in dice.choices(list(CHANGES), list(CHANGES.values()), k=dice.randrange(6))
    ]


def _with_policies(act: Act, dice: random.Random, preempts: bool) -> Act:
    return replace(act, replaces=dice.random() < 0.5, urgent=preempts and dice.random() < 0.4)


def _create(rng: random.Random, at: float) -> Act:
    return Act(at, "create", rng.choice(TENANTS), rng.choice(NAMES), rng.randint(1, 2), rng.random() < 0.5)


VERBS = {
    "create": 6,
    "delete": 6,
    "use": 4,
    "leave": 3,
    "delete-claim": 2,
    "strip": 1,
    "untaint": 1,
    "restart-manager": 1,
    "vanish": 1,
    "fail-device": 1,
}
CHANGES = {"resize": 6, "maintain-device": 2, "maintain-host": 1}
OPERATOR_VERBS = ("kill-operator", "kill-operator", "stop-operator", "term-operator")
OPERATOR_CHANCE = 0.4
"""`use` and `leave`: a pod on a bound node comes and goes. `strip`: a tenant forces its object away.
`untaint`: a Node registers itself anew. `stop-operator`: SIGSTOP for longer than the lease. In directed runs also
`cut-operator`: it reaches the fabric manager and, for longer than the lease, not the API server; and
`cordon`, `uncordon`."""


def _fabric_write(rng: random.Random) -> Treatment:
    delay = rng.uniform(0.1, 0.9)
    late = rng.uniform(TIMEOUT_SECONDS + 0.1, LATE_SECONDS)
    return rng.choice(
        (
            Treatment(delay=delay),
            Treatment(delay=late),
            Treatment(delay=late),
            Treatment(Way.LOSE),
            Treatment(Way.LOSE, delay=delay),
            Treatment(Way.DROP),
            Treatment(Way.LIE),
            Treatment(Way.TWICE),
            Treatment(Way.DENY, status=500),
            Treatment(Way.DENY, status=503),
            Treatment(Way.REFUSE, status=500),
            Treatment(Way.REFUSE, status=429),
            Treatment(Way.REFUSE, status=409),
            Treatment(Way.GARBAGE),
        )
    )


def _fabric_read(rng: random.Random) -> Treatment:
    return rng.choice(
        (
            Treatment(delay=rng.uniform(0.1, 0.9)),
            Treatment(delay=rng.uniform(1.0, 2.0)),
            Treatment(Way.STALE, seconds=STALE_SECONDS),
            Treatment(Way.STALE, seconds=STALE_SECONDS),
            Treatment(Way.HALF),
            Treatment(Way.HALF),
            Treatment(Way.DROP),
            Treatment(Way.GARBAGE),
            Treatment(Way.REFUSE, status=rng.choice((429, 500, 503))),
        )
    )


def _api_write(rng: random.Random) -> Treatment:
    return rng.choice(
        (
            Treatment(delay=rng.uniform(0.1, 1.0)),
            Treatment(delay=rng.uniform(1.5, 2.0)),
            Treatment(Way.LOSE),
            Treatment(Way.LOSE),
            Treatment(Way.DROP),
            Treatment(Way.TWICE),
            Treatment(Way.DENY, status=500),
            Treatment(Way.DENY, status=504),
            Treatment(Way.REFUSE, status=409),
            Treatment(Way.REFUSE, status=429),
            Treatment(Way.REFUSE, status=rng.choice((500, 503))),
        )
    )


def _api_read(rng: random.Random) -> Treatment:
    return rng.choice(
        (
            Treatment(delay=rng.uniform(0.1, 1.0)),
            Treatment(Way.STALE, seconds=2.0),
            Treatment(Way.DROP),
            Treatment(Way.REFUSE, status=rng.choice((410, 429, 500))),
        )
    )


def _lease(rng: random.Random) -> Treatment:
    return rng.choice(
        (
            Treatment(delay=rng.uniform(0.3, 1.2)),
            Treatment(Way.LOSE),
            Treatment(Way.REFUSE, status=409),
            Treatment(Way.DENY, status=500),
        )
    )


def _watch(rng: random.Random) -> WatchWay | Treatment:
    return rng.choice(
        (
            WatchWay.HOLD,
            WatchWay.HOLD,
            WatchWay.DROP,
            WatchWay.END,
            WatchWay.GONE,
            Treatment(Way.REFUSE, status=rng.choice((410, 429, 500))),
        )
    )


ALWAYS = ("fabric write", "fabric write", "fabric write", "fabric read", "api write")
SCOPES = {"fabric write": 3, "fabric read": 2, "api write": 3, "api read": 1, "watch": 2.5, "lease": 1}
"""What strikes a seed beyond ALWAYS. The last three are felt by all seeds that run at the same time."""
_MAKERS: dict[str, Callable[[random.Random], Treatment | WatchWay]] = {
    "fabric write": _fabric_write,
    "fabric read": _fabric_read,
    "api write": _api_write,
    "api read": _api_read,
    "watch": _watch,
    "lease": _lease,
}


def _episode(rng: random.Random, scope: str) -> Episode:
    treatment = _MAKERS[scope](rng)
    start = rng.uniform(0.0, FAULT_SECONDS - 1.0)
    common = scope not in ALWAYS
    # A stream that is ended again and again would leave nothing to be seen.
    once = treatment in (WatchWay.END, WatchWay.GONE)
    length = 0.1 if once else rng.uniform(0.4, 1.2) if common else rng.uniform(1.0, 3.0)
    chance = 1.0 if scope == "watch" else rng.choice((0.3, 0.6) if common else (0.6, 1.0))
    return Episode(start, min(start + length, FAULT_SECONDS), scope, chance, treatment)


def scopes_of(message: Message) -> tuple[str, ...]:
    """Which episodes concern a message."""
    if not message.is_api:
        if message.method == "GET":
            return ("fabric read",)
        # The list of a host's blocks is written as a whole: what leaves nothing there is no attach.
        return ("fabric write", "fabric attach") if b"@odata.id" in message.body else ("fabric write",)
    if message.is_watch:
        return ("watch", "pod watch") if message.path.endswith("/pods") else ("watch",)
    if "/leases" in message.path:
        return ("lease",)
    return ("api read" if message.method == "GET" else "api write",)


class Trouble:
    """The episodes of a schedule as they strike, one roll of the seed's dice for each message of an episode."""

    def __init__(self, schedule: Schedule, started: float, clock: Callable[[], float]) -> None:
        self._episodes = schedule.episodes
        self._rng = random.Random(f"weft messages {schedule.name}")
        self._started = started
        self._clock = clock

    def _active(self, message: Message) -> list[Episode]:
        now, scopes = self._clock() - self._started, scopes_of(message)
        found = [e for e in self._episodes if e.scope in scopes and e.start <= now < e.end]
        return [e for e in found if self._rng.random() < e.chance]

    def treatment(self, message: Message) -> Treatment:
        """What becomes of this message."""
        for episode in self._active(message):
            if isinstance(episode.treatment, Treatment):
                return episode.treatment
        return Treatment()

    def line(self, message: Message) -> WatchWay:
        """What becomes of a watch now."""
        for episode in self._active(message):
            if isinstance(episode.treatment, WatchWay):
                return episode.treatment
        return WatchWay.PASS

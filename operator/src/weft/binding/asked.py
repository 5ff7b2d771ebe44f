"""What is asked of placement: plain values, that can be handed to another thread, compared and hashed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property, lru_cache

from weft.api.meta import LabelOperator, LabelRequirement, LabelSelector
from weft.api.node_shape import HostToleration, Objective
from weft.binding.membership import PoolKey
from weft.fabric.driver import Device, DeviceKind


@dataclass(frozen=True)
class Selector:
    """What attributes or labels must be; can be compared and hashed, so that what it selects is found once."""

    equal: tuple[tuple[str, str], ...] = ()
    requirements: tuple[LabelRequirement, ...] = ()

    @classmethod
    def of_labels(cls, selector: LabelSelector) -> Selector:
        return cls(tuple(sorted(selector.match_labels.items())), selector.match_expressions)

    def matches(self, attributes: Mapping[str, str]) -> bool:
        """Whether these attributes or labels are selected."""
        return all(attributes.get(name) == value for name, value in self.equal) and all(
            requirement.matches(attributes) for requirement in self.requirements
        )

    def words(self) -> list[str]:
        """What it asks for, for people."""
        return [
            *(f"{name}={value}" for name, value in self.equal),
            *(_requirement_words(requirement) for requirement in self.requirements),
        ]


def _requirement_words(requirement: LabelRequirement) -> str:
    values = f"({', '.join(requirement.values)})"
    return {
        LabelOperator.IN: f"{requirement.key} in {values}",
        LabelOperator.NOT_IN: f"{requirement.key} not in {values}",
        LabelOperator.EXISTS: f"any {requirement.key}",
        LabelOperator.DOES_NOT_EXIST: f"no {requirement.key}",
    }[requirement.operator]


@dataclass(frozen=True)
class Choice:
    """Devices that one need may be met from: all of its devices come from one choice."""

    selector: Selector = field(default_factory=Selector)
    least_bytes: int = 0
    """Capacity that each device must have at least."""
    name: str = ""
    """Of an entry of firstAvailable; empty where the need has no alternatives."""

    def matches(self, device: Device) -> bool:
        """Whether the device will do."""
        return device.capacity_bytes >= self.least_bytes and self.selector.matches(device.attributes)

    def words(self) -> str:
        """What it asks for, for people; empty: anything."""
        least = [f"{self.least_bytes / 2**30:g} GiB each"] if self.least_bytes else []
        return ", ".join([*self.selector.words(), *least])


@dataclass(frozen=True)
class Need:
    """One entry of a request: `count` accelerators, or devices that hold `size_bytes` together."""

    name: str
    kind: DeviceKind
    count: int = 0
    size_bytes: int = 0
    choices: tuple[Choice, ...] = (Choice(),)
    """In the order of preference."""

    def words(self) -> str:
        """What is asked for, for people."""
        asked = f"{self.count} accelerators" if self.count else f"{self.size_bytes / 2**30:g} GiB"
        wishes = [words for choice in self.choices if (words := choice.words())]
        return f"{self.name}: {asked}{' with ' if wishes else ''}{', else '.join(wishes)} asked for"


@dataclass(frozen=True)
class Constraint:
    """That all devices of some needs have one value of an attribute."""

    attribute: str
    needs: frozenset[str]
    required: bool = True


@dataclass(frozen=True)
class Shape:
    """What is asked for and from which pools: requests of one shape get one answer."""

    needs: tuple[Need, ...]
    allowed_pools: frozenset[PoolKey]
    node_selector: Selector = field(default_factory=Selector)
    cpu: Decimal = Decimal(0)
    memory_bytes: int = 0
    constraints: tuple[Constraint, ...] = ()
    jurisdictions: frozenset[str] = frozenset()
    """Empty: any."""
    avoid_hosts: frozenset[str] = frozenset()
    tolerations: tuple[HostToleration, ...] = ()
    """Taints that the host's Node may have."""
    node_name: str = ""
    """The one Node that it can be, which carries the logical node already; empty: one that carries nothing."""
    objective: Objective | None = None

    def __hash__(self) -> int:
        # Looked up in every pass for everybody who waits; it is the same each time.
        try:
            return self.__dict__["_hash"]  # type: ignore[no-any-return]
        except KeyError:
            key = (self.needs, self.allowed_pools, self.node_selector, self.cpu, self.constraints)
            known = hash((*key, self.node_name))
            self.__dict__["_hash"] = known
            return known

    @cached_property
    def asked(self) -> object:
        """The same object for shapes that ask for the same devices, of whatever host."""
        return same(
            "shape", self.needs, self.allowed_pools, self.constraints, self.jurisdictions, self.objective
        )


@dataclass(frozen=True)
class Gang:
    """Requests that get their places together, in one domain, or not at all."""

    attribute: str
    """Device attribute that the accelerators of all of them are to have one value of."""
    members: tuple[Waiting, ...]
    domain: str = ""
    """The value that was chosen already, which the members ask for; empty: any that they all find room in."""


@dataclass(frozen=True)
class Waiting:
    """A logical node that has no devices yet, or not all that it asks for now."""

    uid: str
    namespace: str
    name: str
    created: str
    shape: Shape
    adopt: frozenset[tuple[str, str]] = frozenset()
    """Fabric and device of what it takes over as it is; empty: what it gets is free."""
    priority: int = 0
    """Of its PriorityClass: the greater goes first in its namespace."""
    not_accepted: tuple[str, str] | None = None
    """Reason and message why it has no turn, whatever is free; None: it has one."""
    was_head: bool = False
    """Whether its status says that it was the head of the queue: a new leader goes on where the last one was."""
    generation: int = 0
    """Of the object, so that an outcome for another spec is known."""
    extends: str = ""
    """Operation that the node was bound with first, where the shape is what it lacks of devices; empty: it has none."""
    suspended: bool = False
    """Whether it takes nothing, because its spec says so."""
    may_preempt: bool = True
    """Whether its PriorityClass lets it take from lower ones where pools allow that."""
    whole: Shape | None = None
    """Where it lacks some: all that it asks for, with what its own devices have to have. None: the shape is all."""
    gang: Gang | None = None
    """It is no logical node but the place in the queue of all these, which are made when there is room for them."""

    def is_for(self, request: Waiting) -> bool:
        """Whether it is the place of a gang whose domain is chosen, and the request one of its logical nodes."""
        if self.gang is None or not self.gang.domain or self.namespace != request.namespace:
            return False
        asked = request.name, request.shape.needs
        return any((each.name, each.shape.needs) == asked for each in self.gang.members)

    @property
    def has_turn(self) -> bool:
        """Whether a place is looked for at all."""
        return self.not_accepted is None and not self.suspended

    @property
    def possible(self) -> Shape:
        """What there has to be, in use or not, for the request to be met some day."""
        return self.whole or self.shape


def pinned(waiting: Waiting, attribute: str, domain: str) -> Waiting:
    """The same in one domain, as `domains.in_domain` will ask for it."""

    def inside(choice: Choice) -> Choice:
        equal = tuple(sorted({*choice.selector.equal, (attribute, domain)}))
        return replace(choice, selector=replace(choice.selector, equal=equal))

    needs = tuple(
        replace(need, choices=tuple(map(inside, need.choices)))
        if need.kind is DeviceKind.ACCELERATOR
        else need
        for need in waiting.shape.needs
    )
    return replace(waiting, shape=replace(waiting.shape, needs=needs))


@lru_cache(maxsize=50_000)
def same(*facts: Hashable) -> object:
    """One object for equal facts, so that they are compared once and not in every pass."""
    return object()

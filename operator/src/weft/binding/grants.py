"""What DeviceQuotas and PriorityClasses make of the turn of a namespace's requests. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weft.api import DeviceQuota
from weft.binding.requests import Turn
from weft.cluster import Object


class Grants:
    """The weights of namespaces, and which PriorityClasses they may name."""

    def __init__(self, quotas: Iterable[DeviceQuota], classes: Sequence[Object]) -> None:
        self.weights: dict[str, int] = {}
        """Of several of one namespace the lowest holds."""
        self._allowed: dict[str, frozenset[str]] = {}
        for quota in quotas:
            namespace, spec = quota.metadata.namespace, quota.spec
            if spec.weight is not None:
                self.weights[namespace] = min(spec.weight, self.weights.get(namespace, spec.weight))
            if spec.priority_classes is not None:
                names = frozenset(spec.priority_classes)
                self._allowed[namespace] = names & self._allowed.get(namespace, names)
        self._calm = {each["metadata"]["name"] for each in classes if each.get("preemptionPolicy") == "Never"}
        self._values = {each["metadata"]["name"]: int(each.get("value", 0)) for each in classes}
        # As the API server has it for pods: of several, which a race can make, the lowest.
        self._default = min(
            (int(each.get("value", 0)) for each in classes if each.get("globalDefault")), default=0
        )

    def turn(self, namespace: str, name: str | None) -> Turn:
        """The priority of a request that names this PriorityClass, or why it has none."""
        if name is None:
            return Turn(self._default)
        if name not in self._allowed.get(namespace, {name}):
            text = f"a DeviceQuota of the namespace does not allow the PriorityClass {name}"
            return Turn(0, ("PriorityClassNotAllowed", text))
        if name not in self._values:
            return Turn(0, ("PriorityClassNotFound", f"there is no PriorityClass {name}"))
        return Turn(self._values[name], may_preempt=name not in self._calm)

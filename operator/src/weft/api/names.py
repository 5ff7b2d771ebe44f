"""Labels, gates, finalizers and taints that Weft writes on objects it does not own alone."""

from __future__ import annotations

from weft.api.resources import GROUP

LABEL_GROUP = f"{GROUP}/group"
"""On a replica's pod: the InferenceGroup that owns it."""

LABEL_ROLE = f"{GROUP}/role"
"""On a replica's pod: the InferenceRole it serves now. A flip changes it."""

LABEL_STAGE = f"{GROUP}/stage"
"""On a replica's pod: `encode`, `prefill`, `decode` or `aggregated`, in one patch with LABEL_ROLE."""

LABEL_REPLICA = f"{GROUP}/replica"
"""On a replica's pod and logical node: the replica's name, which a flip does not change.

In this version a replica is one pod, and that pod has its name; one of several hosts would have several."""

LABEL_WORKER_INDEX = f"{GROUP}/worker-index"
"""On a replica's pod: which of the replica's pods it is, from 0. A role's selector for /scale takes 0 only, so that it
finds one pod per replica."""

GATE_SERVING = f"{GROUP}/serving"
"""Readiness gate of a replica's pod: False takes it out of Services and endpoint pickers."""

FINALIZER = f"{GROUP}/fabric"
"""Held until nothing of the object is left attached on the fabric."""

ANNOTATION_LOGICAL_NODE = f"{GROUP}/logical-node"
"""On a Node whose taint cannot hold the whole name of its logical node: namespace/name."""

ANNOTATION_MODE = f"{GROUP}/mode-before-pause"
"""On what `weft pause` paused: the mode that it goes back to."""

DEVICES = f"{GROUP}/devices"
"""On an Event about devices: a label without a value, to select such Events by, and an annotation with the names of
their DeviceAttachments, as a JSON list. The attachments may be gone."""

TAINT_LOGICAL_NODE = f"{GROUP}/logical-node"
"""NoSchedule taint of a Node that carries a bound logical node; the value names it."""

TAINT_DRAINING = f"{GROUP}/draining"
"""NoSchedule taint beside it while pods or devices leave: the logical node's own pods are kept away, too."""

OWN_TAINTS = frozenset({TAINT_LOGICAL_NODE, TAINT_DRAINING})

"""The conditions and events of inference groups and roles, and the one that Weft writes into their pods."""

from __future__ import annotations

from weft.api.names import GATE_SERVING
from weft.api.reasons import traffic
from weft.api.reasons.declared import ConditionType, Event, Reason

GROUP = traffic.GROUP
ROLE = ("InferenceRole",)
POD = ("Pod",)

_MEND_TEMPLATE = "Correct `spec.template`; an edit is tried at once."
_MEND_POLICY = "Change the quota, policy or webhook that the message quotes; it is tried again by itself."

_TEMPLATE_MISSING = Reason(
    "False",
    "TemplateMissing",
    "A role has no pod template, nor has its group.",
    "Set `spec.template` in one of them.",
    event="Warning",
)
_TOO_MANY_ROLES = Reason(
    "False",
    "TooManyRoles",
    "More roles refer to the group than one can have; the latest ones get no replicas.",
    "Delete them, or others of the group.",
    event="Warning",
)
# What the API server refuses of new replicas.
_REFUSED = (
    Reason(
        "False",
        "TemplateInvalid",
        "The API server does not take the pod made from the template for valid.",
        _MEND_TEMPLATE,
        event="Warning",
    ),
    Reason(
        "False",
        "PodRefused",
        "The API server refuses to create the pod, which is valid.",
        _MEND_POLICY,
        event="Warning",
    ),
    Reason(
        "False",
        "NodeRefused",
        "The API server refuses to create the LogicalNode of a replica.",
        "Correct the role's `spec.node`, or change the policy that the message quotes.",
        event="Warning",
    ),
)
_WRITE_REFUSED = Reason(
    "False",
    "WriteRefused",
    "The API server refuses another write that Weft has to make.",
    _MEND_POLICY,
    event="Warning",
)
# What keeps Weft from scaling the workload of a role.
_TARGET = (
    Reason(
        "False",
        "KindNotListed",
        "The kind in `spec.scaleTargetRef` is not one that the administrator lets Weft scale.",
        "Have it added to the operator's setting `scale_targets`, which also makes the permissions.",
        event="Warning",
    ),
    Reason(
        "False",
        "TargetNotFound",
        "There is no such workload, or its kind is not installed.",
        "Create it, or delete the role.",
        event="Warning",
    ),
    Reason(
        "False",
        "TargetForbidden",
        "The API server does not let Weft read the workload's scale.",
        "Grant the operator get and patch of what the message names; the chart does it for listed kinds.",
        event="Warning",
    ),
    Reason(
        "False",
        "TargetShared",
        "An older role has the same workload.",
        "Delete one of the two roles.",
        event="Warning",
    ),
    Reason(
        "False",
        "SelectorMissing",
        "The workload's scale does not say by which labels its pods are found.",
        "Wait for its controller to write `status.selector`; a kind that never has one cannot be balanced.",
        event="Warning",
    ),
    Reason(
        "False",
        "OtherScaler",
        "Something other than Weft changed the number of replicas; Weft writes nothing there since.",
        "Remove the other, or let it ignore `spec.replicas`; then set `rebalance.mode` to Recommend and back to Auto.",
        event="Warning",
    ),
)


CONDITIONS = (
    ConditionType(
        GROUP,
        "Ready",
        "A request can pass: every stage that it needs has a serving replica.",
        (
            Reason("True", "Serving", "Prefill and Decode, or Aggregated, have serving replicas."),
            Reason(
                "False",
                "NoRoles",
                "No InferenceRole refers to the group.",
                "Create its roles in the same namespace.",
            ),
            Reason(
                "False",
                "StageMissing",
                "No role of a stage that a request needs refers to the group.",
                "Create a role of the stage that the message names.",
            ),
            Reason(
                "False",
                "NoServingReplica",
                "A stage has roles, but no replica that takes requests yet.",
                "Wait; if it lasts, look at the group's pods and at the condition Bound of its LogicalNodes.",
                see="LogicalNode.Bound",
            ),
            Reason(
                "False",
                "NoReplicaGiven",
                "A stage has roles, and none of them is to have a replica.",
                "See the group's condition Balanced.",
                see="Balanced",
            ),
            Reason(
                "False",
                "ScaledToZero",
                "No role is to have replicas.",
                "Nothing: in Auto they are made when a request waits at the front end. A group that was"
                " paused while it slept sleeps on: set its mode to Auto (`weft resume`), or edit `spec.replicas` of its"
                " roles.",
            ),
            Reason(
                "False",
                "Removing",
                "The group is being deleted and its replicas end their requests first.",
                "Wait; without recent metrics a replica stays until its role's `spec.drain.timeoutSeconds` are over.",
            ),
            *(each.told("") for each in (_TEMPLATE_MISSING, *_REFUSED, _WRITE_REFUSED)),
        ),
    ),
    *traffic.CONDITIONS,
    ConditionType(
        GROUP,
        "Balanced",
        "The replicas are where the allocation wants them, and nothing keeps the split from following the traffic.",
        (
            Reason("True", "AsDecided", "Every role has the serving replicas that the allocation gives it."),
            Reason(
                "False",
                "Moving",
                "Replicas are on the way from one role to another.",
                "Wait; `status.transfers` says how far they are.",
            ),
            Reason(
                "False",
                "Scaling",
                "Replicas are being made, for which their logical nodes may wait for devices, or removed.",
                "Wait; if it lasts, see the condition Bound of the group's LogicalNodes.",
                see="LogicalNode.Bound",
            ),
            Reason(
                "False",
                "Starting",
                "All replicas are there, and some do not take requests yet.",
                "Wait; if it lasts, look at the pods of the roles that the message names.",
            ),
            Reason(
                "False",
                "Suspended",
                "`spec.suspend` is set: no move begins and no replica is added.",
                "Take it off when it may go on: `kubectl weft resume KIND/NAME`.",
                event="Warning",
            ),
            Reason(
                "False",
                "OutsideWindow",
                "A move waits: no window of `spec.windows` that is for it is open; the message says when one opens.",
                "Wait for the window, or change `spec.windows`.",
                event="Warning",
            ),
            Reason(
                "False",
                "BudgetTooSmall",
                "Replicas that are asked for do not fit into `accelerators.maximum`; if not even the fewest do that the"
                " roles can have, nothing is changed.",
                "Raise `spec.accelerators.maximum`, and what was left out is made, or lower what the message names.",
                event="Warning",
            ),
            Reason(
                "False",
                "WaitingForBudget",
                "`accelerators.maximum` is used: a new replica waits until another is wholly gone.",
                "Wait for the other to release its devices, or raise the maximum: where the message says that the last"
                " replica of a role is evicted otherwise, before its drain's timeout.",
                event="Warning",
            ),
            Reason(
                "False",
                "WaitingForTurn",
                "Replicas are taken out of service for maintenance and still serve: no more than a quarter of a role,"
                " at least one, is away at a time.",
                "Nothing: they leave one after the other, all by the time that the message says. To have it over"
                " sooner, raise `accelerators.maximum`, so that their successors serve before, or lower the"
                " `drain.timeoutSeconds` of the maintenance.",
            ),
            Reason(
                "False",
                "WaitingForDomain",
                "No value of `placement.sameDomain` has room for all replicas together: none is made, and none holds"
                " devices meanwhile.",
                "Free or add devices and hosts in the domain that the message names, or ask for fewer replicas.",
                event="Warning",
            ),
            Reason(
                "False",
                "PlacementIgnored",
                "`placement.sameDomain` has no effect on a role of plain pods, of which no domain is known.",
                "Give the role a `node`, or remove the field.",
                event="Warning",
            ),
            Reason(
                "False",
                "WaitingForHardware",
                "No devices, or no Node, are free for a new replica: it is not counted on, and no more are made.",
                "Wait for a release, or see the condition Reserved of its LogicalNode, or its pod's events.",
                see="LogicalNode.Reserved",
                event="Warning",
            ),
            Reason(
                "False",
                "MinimumOutOfReach",
                "The roles' `maxReplicas` do not allow as many replicas as `accelerators.minimum`, or a minimum of its"
                " schedule that lasts now, asks for.",
                "Raise `spec.maxReplicas` of the roles, or lower the minimum.",
                event="Warning",
            ),
            Reason(
                "False",
                "ScheduleUnreadable",
                "A time zone of `accelerators.schedule` is not known to the operator: the largest minimum of the"
                " schedule counts at any time.",
                "Name a zone of the tz database that this version knows.",
                event="Warning",
            ),
            Reason(
                "False",
                "NoSpareReplica",
                "A role would be left without a serving replica, or below its minimum; the move waits.",
                "Wait until it has another, or lower `spec.minReplicas`.",
                event="Warning",
            ),
            Reason(
                "False",
                "ReplicaStuck",
                "A pod does not start or end in the time that it may take, or ends again and again before it is ready.",
                "Do what the message says of the pod that it names; a changed template replaces one that never served.",
                event="Warning",
            ),
            Reason(
                "False",
                "RouterKeepsSending",
                "Requests went on beginning on a replica long after it had left the router. Nothing is moved, rolled or"
                " made smaller until none has for ten minutes; what people ask for goes on, and is cut when its drain"
                " times out.",
                "Use a router that sends nothing to pods that are not Ready (docs/engines.md, How soon a router"
                " stops).",
                event="Warning",
            ),
            Reason(
                "False",
                "ProfileMissing",
                "A role has no profile that can be used, so that no split can be predicted.",
                "Give the role the EngineProfile that the message asks for.",
                event="Warning",
            ),
            Reason(
                "False",
                "RoleSwitchIgnored",
                "An engine answered that it changed its stage, and tells its old one; it serves that on.",
                "Compare its version and arguments with docs/engines.md, or set `rebalance.flip` to Restart. It is"
                " tried again after five minutes.",
                event="Warning",
            ),
            Reason(
                "False",
                "RoleSwitchRefused",
                "An engine refuses to change its stage, in the words of the message; it serves the old one on.",
                "Correct its arguments or the preset's `role_switch`, or set `rebalance.flip` to Restart. Tried again"
                " after five minutes.",
                event="Warning",
            ),
            Reason(
                "False",
                "FlipIncompatible",
                "No two roles of different stages can exchange replicas.",
                "Make templates equal but for labels, and nodes equal, or set `rebalance.flip` to None. HTTP needs a"
                " preset with `role_switch`.",
                event="Warning",
            ),
            _TEMPLATE_MISSING,
            _TOO_MANY_ROLES,
            *_TARGET,
            *_REFUSED,
            _WRITE_REFUSED,
        ),
    ),
    ConditionType(
        ROLE,
        "Ready",
        "The role has the replicas that it is to have, and they take requests.",
        (
            Reason("True", "Serving", "All of them take requests."),
            Reason(
                "False",
                "Progressing",
                "Not all of them take requests yet.",
                "Wait; if it lasts, look at its pods and at the condition Bound of its LogicalNodes.",
                see="LogicalNode.Bound",
            ),
            Reason(
                "False",
                "NoReplicaGiven",
                "The role is to have replicas and is given none.",
                "See the condition Balanced of its group.",
                see="InferenceGroup.Balanced",
            ),
            Reason("False", "NoneNeeded", "`spec.minReplicas` is 0, and the role is to have no replica now."),
            Reason(
                "False",
                "GroupNotFound",
                "There is no InferenceGroup of the name in `spec.groupRef`.",
                "Create it, or delete the role.",
            ),
            _TEMPLATE_MISSING.told(""),
            _TOO_MANY_ROLES.told(""),
            *_REFUSED,
        ),
    ),
    ConditionType(
        ROLE,
        "ProfileValid",
        "The measured speed of the role's replicas can be used.",
        (
            Reason("True", "ProfileRead", "The EngineProfile is read and consistent."),
            Reason(
                "False",
                "ProfileUnusable",
                "There is no EngineProfile, or it cannot be used.",
                "Create or correct what the message names.",
            ),
            Reason(
                "Unknown",
                "TemplateMissing",
                "The role has no template to run, so that its profile is not looked at.",
                "Set `spec.template` in the role or its group.",
            ),
        ),
    ),
    ConditionType(
        ROLE,
        "ReplicasIgnored",
        "True says that the role is given another number than `spec.replicas`.",
        (
            Reason(
                "True",
                "BudgetTooSmall",
                "`accelerators.maximum` of the group has no room for all replicas that its roles ask for.",
                "Raise `spec.accelerators.maximum` of the group, or lower `spec.replicas` of its roles.",
            ),
            Reason(
                "True",
                "DecidedByAuto",
                "`spec.replicas` was the starting point, and the group's `status.decision` has another number since.",
                "To have another number set `rebalance.mode` to Paused, or Recommend, and edit `spec.replicas` then."
                " An edit made in Auto is not followed, also not later.",
            ),
            Reason("False", "AsAsked", "The role has the replicas that `spec.replicas` asks for."),
            Reason(
                "False",
                "HeldAsAsked",
                "A role of stage Encode has the replicas that `spec.replicas` asks for, also in Auto: no engine tells"
                " what it needs.",
                "Set `spec.replicas`, or have an autoscaler write it through `/scale`.",
            ),
        ),
    ),
    ConditionType(
        ROLE,
        "KeepsUp",
        "Of stage Encode: what waits at the role's replicas is no more than they work on.",
        (
            Reason("True", "QueueShort", "No more requests wait than are worked on, but for bursts."),
            Reason(
                "False",
                "QueueLong",
                "More requests have waited than are worked on for a whole long window, a minute or more.",
                "Raise `spec.replicas` of the role, or let an autoscaler write it through `/scale`.",
            ),
            Reason(
                "Unknown",
                "NotTold",
                "None of its replicas serves, or none has series of running and waiting requests.",
                "Have them scraped, or watch what the engine exports itself (docs/engines.md).",
            ),
        ),
    ),
    ConditionType(
        ROLE,
        "AbleToScale",
        "The workload that `spec.scaleTargetRef` names can be read and scaled.",
        (
            Reason("True", "Followed", "It gets the replicas that the allocation gives the role."),
            Reason("True", "ReadOnly", "The group's mode is not Auto: Weft reads it and writes nothing."),
            *(each.told("") for each in _TARGET),
            _WRITE_REFUSED,
        ),
    ),
    ConditionType(
        POD,
        GATE_SERVING,
        "The replica may be sent requests: a readiness gate, without which its pod is not Ready.",
        (
            Reason("True", "Serving", "The replica takes requests."),
            Reason(
                "True",
                "RolledBack",
                "It takes requests in its old role again, as its transfer was rolled back.",
            ),
            Reason("False", "Transfer", "It finishes its requests before it changes its role."),
            Reason("False", "Removing", "It finishes its requests before it is removed."),
        ),
    ),
)

EVENTS = (
    Event(GROUP, "Normal", "Decided", "The split changed, for the reason in the message."),
    Event(GROUP, "Normal", "ScaledUp", "The group gets more replicas, for the reason in the message."),
    Event(GROUP, "Normal", "ScaledDown", "The group gets fewer replicas, for the reason in the message."),
    Event(
        GROUP,
        "Normal",
        "Recommended",
        "In mode Recommend another split would be chosen.",
        "Set the roles' `spec.replicas`, or `rebalance.mode` to Auto, to follow it.",
    ),
    Event(GROUP, "Normal", "TargetScaled", "The workload of a role gets another number of replicas."),
    Event(
        GROUP,
        "Normal",
        "DomainChosen",
        "The domain in which all replicas get their devices was chosen (`spec.placement.sameDomain`).",
    ),
    Event(GROUP, "Normal", "TransferStarted", "A replica begins to change its role."),
    Event(GROUP, "Normal", "TransferFinished", "A replica serves its new role."),
    Event(
        GROUP,
        "Warning",
        "TransferRolledBack",
        "A replica stays with its old role.",
        "See the message; raise `spec.drain.timeoutSeconds` of the role if it did not drain in time.",
    ),
    Event(
        GROUP,
        "Normal",
        "TransferCalledBack",
        "A replica that had not ended its old work yet stays with its role: another decision wants it there.",
    ),
    Event(
        GROUP,
        "Warning",
        "TransferEnded",
        "A replica was gone before it served its new role; another is made where one is lacking.",
        "Look at why its pod ended.",
    ),
    Event(
        ROLE,
        "Warning",
        _WRITE_REFUSED.word,
        "The API server refuses to store the role's status.",
        _MEND_POLICY,
    ),
)

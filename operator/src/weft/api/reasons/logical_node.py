"""The conditions and events of logical nodes."""

from __future__ import annotations

from weft.api.reasons.declared import ConditionType, Event, Reason

NODE = ("LogicalNode",)

# Why a logical node has no place: said by Reserved and Bound alike.
# What cannot be met as things are: said by Accepted, too.
_NOT_ACCEPTED = (
    Reason(
        "False",
        "NoSuchDevices",
        "No pool has so many such devices, together as `placement.constraints` require, in use or not.",
        "Ask for less (counts and sizes of `spec` may be changed), create a new LogicalNode for other devices, or have"
        " some added to a pool.",
    ),
    Reason(
        "False",
        "NotGranted",
        "There are such devices, but not so many in pools that are open to the namespace.",
        "Have `spec.allowedNamespaces` of a pool changed; its administrator sees the pools.",
    ),
    Reason(
        "False",
        "PriorityClassNotFound",
        "There is no PriorityClass of the name in `spec.priorityClassName`.",
        "Have it created, or create a new LogicalNode with another.",
    ),
    Reason(
        "False",
        "PriorityClassNotAllowed",
        "A DeviceQuota of the namespace does not allow the PriorityClass in `spec.priorityClassName`.",
        "Create a new LogicalNode with another, or have the DeviceQuota changed.",
    ),
)
_SHORT = (
    Reason(
        "False",
        "NotEnoughDevices",
        "Not enough devices that suit are free, together at one host, or they are kept for a request before it.",
        "Wait for a release, ask for less, or have a pool opened or enlarged; it is tried again by itself.",
    ),
    Reason(
        "False",
        "ConstraintUnmet",
        "Enough devices are free, but not within one domain as `placement.constraints` require.",
        "Wait for a release, or make the constraint Preferred.",
    ),
    Reason(
        "False",
        "NoHost",
        "No host has the labels, CPU and memory asked for, or every one that has them carries a logical node.",
        "Free or uncordon one of the Nodes that the message names, tolerate its taint, or ask for less of the host.",
    ),
    Reason(
        "False",
        "QuotaExceeded",
        "A DeviceQuota of the namespace does not allow as much, however much is free.",
        "Release what the namespace holds, or have the DeviceQuota raised.",
    ),
    Reason(
        "False",
        "ClaimRefused",
        "A place was found, but the API server refuses a DeviceAttachment, the Node's taint or the finalizer.",
        "Change the policy or webhook that the message quotes; it is tried again by itself.",
        event="Warning",
    ),
)
_TAKES_NOTHING = (
    Reason(
        "False",
        "Suspended",
        "`spec.suspend` of it, or of a Fabric that would have a place for it, is set.",
        "Take it off when it may go on: `kubectl weft resume KIND/NAME`.",
    ),
    Reason(
        "False",
        "OutsideWindow",
        "A Fabric has a place for it, and no window of its `spec.windows` is open: the message says when one opens.",
        "Wait for the window.",
    ),
)
_NO_PLACE = (
    *_NOT_ACCEPTED,
    Reason(
        "False",
        "OnlyPlanned",
        "A place was found, but a Fabric there is in Observe mode: `status.plan` says what would be attached.",
        "Look at the plan; to carry it out set the Fabric's `spec.mode` to Manage, or, where it was paused,"
        " `kubectl weft resume fabric/NAME`.",
    ),
    *_SHORT,
    *_TAKES_NOTHING,
    Reason(
        "False",
        "CannotAdopt",
        "What `spec.adopt` names cannot be taken over.",
        "Correct what the message says of the device, or name others.",
    ),
)
# Why claimed devices are not attached yet.
_ON_THE_WAY = (
    Reason(
        "False",
        "FabricNotReady",
        "The devices are claimed, but their fabric cannot be worked with now.",
        "See the condition Connected of the Fabric that the message names; it goes on by itself.",
        see="Fabric.Connected",
    ),
    Reason(
        "False",
        "Attaching",
        "The devices are being attached, or the last try failed and is repeated.",
        "Wait, or see the Fabric's condition CallsSucceed for the manager's words.",
        see="Fabric.CallsSucceed",
    ),
    Reason(
        "False",
        "InvalidRequest",
        "The manager refuses the request as it is; it is repeated ever more rarely.",
        "See the Fabric's condition CallsSucceed for the manager's words; delete the LogicalNode to give up.",
        see="Fabric.CallsSucceed",
    ),
)
_RELEASING = Reason(
    "False",
    "Releasing",
    "The devices are being given back.",
    "End the pods that the message names, if any; resume the Fabric where it says so; else wait for the manager.",
)
_EXPIRED = Reason(
    "False",
    "Expired",
    "The time that `ttlSecondsAfterBound` gave is up and the devices are free again.",
    "Create a new LogicalNode to bind again.",
)
# What is the matter with a bound one.
_TROUBLE = (
    Reason(
        "False",
        "WaitingForNode",
        "The machine was made with the devices, and its Node has not registered yet.",
        "Wait for it to boot; if it does not, look at the machine's console.",
        event="Warning",
    ),
    Reason(
        "False",
        "NodeNotReady",
        "The Node is not ready; the devices stay attached.",
        "Mend the Node.",
        event="Warning",
    ),
    Reason(
        "False",
        "NodeTaken",
        "The Node has lost this logical node's taint, or carries another's.",
        "Wait where the taint was lost, as it is put back, five times a minute at most: stop what takes it off"
        " each time. Else delete one of the two LogicalNodes.",
        event="Warning",
    ),
    Reason(
        "False",
        "DeviceAtTwoHosts",
        "The fabric shows a device at this host and at another one.",
        "Have an administrator detach what does not belong there.",
        event="Warning",
    ),
    Reason(
        "False",
        "DeviceMissing",
        "The fabric no longer shows a device at the host.",
        "Delete this LogicalNode and make it anew.",
        event="Warning",
    ),
    Reason(
        "False",
        "DeviceUnhealthy",
        "The fabric reports a fault of a device.",
        "Have the device looked at; delete this LogicalNode to get another.",
        event="Warning",
    ),
)


CONDITIONS = (
    ConditionType(
        NODE,
        "Accepted",
        "It can be met some day, as pools, grants and devices are.",
        (
            Reason("True", "Accepted", "It has a place in the queue, or its devices."),
            *_NOT_ACCEPTED,
        ),
    ),
    ConditionType(
        NODE,
        "Reserved",
        "All devices are claimed.",
        (Reason("True", "Reserved", "A DeviceAttachment stands for each device."), *_NO_PLACE, _EXPIRED),
    ),
    ConditionType(
        NODE,
        "Bound",
        "All devices are attached to one Node.",
        (
            Reason("True", "Bound", "Every device was seen at the host.", event="Normal"),
            *_NO_PLACE,
            *_ON_THE_WAY,
            _RELEASING,
            _EXPIRED,
        ),
    ),
    ConditionType(
        NODE,
        "Ready",
        "The devices are bound and healthy, and their Node is ready and reserved for this logical node.",
        (
            Reason("True", "Ready", "It can be worked with."),
            Reason("False", "NotBound", "It has no devices yet.", "See the condition Bound.", see="Bound"),
            *_TROUBLE,
            _RELEASING,
            _EXPIRED,
        ),
    ),
    ConditionType(
        NODE,
        "Resized",
        "A bound node has what its spec asks for now; said once its spec was changed, or a device was replaced.",
        (
            Reason("True", "Resized", "It has what its spec asks for.", event="Normal"),
            Reason(
                "False", "Growing", "A place is looked for, for the devices that it lacks.", "Wait a moment."
            ),
            *_NOT_ACCEPTED,
            *_SHORT,
            *_TAKES_NOTHING,
            *_ON_THE_WAY,
            Reason(
                "False",
                "Drain",
                "Devices are to be detached, and pods still use the host.",
                "End the pods that the message names; what stays is not touched.",
            ),
            Reason(
                "False",
                "Settle",
                "Devices are being detached, and it is not certain yet that they are free.",
                "Wait: it takes at most `settleSeconds` once the manager answers.",
            ),
            Reason(
                "False",
                "FabricError",
                "The last try to detach a device failed and is repeated.",
                "See the Fabric's condition CallsSucceed for the manager's words.",
                see="Fabric.CallsSucceed",
            ),
        ),
    ),
    ConditionType(
        NODE,
        "Draining",
        "True warns: its pods are to leave, and its devices with them: maintenance, a fault, or a greater priority.",
        (
            Reason(
                "True",
                "Maintenance",
                "An administrator takes its host, all its devices, or any device of a group's replica out of service.",
                "Nothing where the message says that its InferenceGroup makes another: Balanced of that group"
                " says what that one waits for, and until when this one serves on. Else let the pods that the message"
                " names end; they are evicted as `spec.onMaintenance` and budgets say.",
            ),
            Reason(
                "True",
                "HostFailed",
                "Its Node was not ready for `spec.releaseAfterNotReadySeconds`, and pods still stand there.",
                "Delete the pods that the message names once the machine is known to be down.",
            ),
            Reason(
                "True",
                "Preempted",
                "A LogicalNode of a greater PriorityClass needs its devices, and their pools allow preemption.",
                "Let the pods that the message names end; it waits for devices again afterwards. A PriorityClass as"
                " high as the other's, or pools without `spec.preemption`, keep it from that.",
            ),
            Reason("False", "NotDraining", "Nobody is asked to leave any more."),
        ),
    ),
    ConditionType(
        NODE,
        "Expired",
        "True warns: the time that `ttlSecondsAfterBound` gave is up.",
        (
            Reason(
                "True",
                "TimeIsUp",
                "The devices are given back, or are free again.",
                "Create a new LogicalNode to bind again.",
            ),
        ),
    ),
)

EVENTS = (
    Event(
        NODE,
        "Warning",
        "AttachFailed",
        "The host did not have the devices after a call that attaches them, or was not read since.",
        "Nothing; it is tried again or elsewhere, and the conditions say so while it goes on.",
    ),
    Event(
        NODE,
        "Normal",
        "Shrinking",
        "Devices of a bound node are to be detached; the others stay.",
        "Nothing, or end the pods that the condition Resized names.",
    ),
    Event(
        NODE,
        "Warning",
        "DeviceFailed",
        "Devices failed to attach and are quarantined; others are tried.",
        "Have an administrator read the condition Quarantined of their DeviceAttachments.",
    ),
    Event(
        NODE,
        "Warning",
        "PlaceLost",
        "The Node or the host cannot take the devices after all; another place is tried.",
        "Look at what the message names if it goes on.",
    ),
)

"""The conditions and events of fabrics, pools, quotas and attachments."""

from __future__ import annotations

from weft.api.reasons.declared import ConditionType, Event, Reason

FABRIC = ("Fabric",)
POOLS = ("GPUPool", "MemoryPool", "StoragePool")
QUOTA = ("DeviceQuota",)
ATTACHMENT = ("DeviceAttachment",)
DETACHED_FOR = ("LogicalNode", "Fabric")

_ACCEPT_INVENTORY = (
    "Mend the manager, or annotate the Fabric with `weft.dev/accept-inventory=<count>` if that many are left."
)
_MEND_MANAGER = (
    "Mend what the message names at the manager; devices that were not read keep their last state."
)

_INVENTORY = (
    Reason(
        "False",
        "InventoryIncomplete",
        "The manager did not answer for everything; what is not shown is not taken for gone.",
        _MEND_MANAGER,
    ),
    Reason(
        "False",
        "InventoryShrank",
        "More than a fifth of the known devices is not shown any more, which is not believed.",
        _ACCEPT_INVENTORY,
    ),
)


CONDITIONS = (
    ConditionType(
        FABRIC,
        "Connected",
        "The manager answers, and is the one that Weft may work with.",
        (
            Reason("True", "Connected", "The manager was read."),
            Reason(
                "Unknown",
                "Fencing",
                "A new leader waits until calls of the earlier one can no longer arrive.",
                "Wait: it takes at most the request timeout.",
            ),
            Reason(
                "False",
                "DriverNotFound",
                "The driver that `spec.driver` names is not installed, or cannot be loaded.",
                "Correct `spec.driver`, or install the driver into the operator's image.",
                event="Warning",
            ),
            Reason(
                "False",
                "SecretMissing",
                "A Secret that the Fabric names, or a key of it, is not there or not readable.",
                "Create the Secret with the key that the message names.",
                event="Warning",
            ),
            Reason(
                "False",
                "AuthFailed",
                "The manager does not accept the credentials.",
                "Correct the Secret, or the account at the manager; the Secret is read again by itself.",
                event="Warning",
            ),
            Reason(
                "False",
                "Unreachable",
                "The manager could not be read; the last known picture is kept.",
                "Mend the manager or the way to it, as the message says.",
                event="Warning",
            ),
            Reason(
                "False",
                "EndpointChanged",
                "`spec.endpoint` or `spec.driver` was edited while devices are claimed at the earlier one.",
                "Set them back, at least until the LogicalNodes bound there are deleted.",
                event="Warning",
            ),
            Reason(
                "False",
                "ManagerChanged",
                "Another service than the one at which devices are claimed answers at the endpoint.",
                "Restore the manager, or confirm with the annotation `weft.dev/accept-manager` that it is the same.",
                event="Warning",
            ),
            Reason(
                "False",
                "ManagedTwice",
                "Another Fabric manages the same manager, and two would attach a device twice.",
                "Delete one of them, or set its `spec.mode` to Observe.",
                event="Warning",
            ),
        ),
    ),
    ConditionType(
        FABRIC,
        "InventoryComplete",
        "The last reading was whole and is believed.",
        (
            Reason("True", "Complete", "The last reading was taken as it was."),
            *(each.told("Warning") for each in _INVENTORY),
        ),
    ),
    ConditionType(
        FABRIC,
        "NoOrphans",
        "Every attachment on the fabric has a DeviceAttachment.",
        (
            Reason("True", "NoOrphans", "Nothing is attached that Weft does not know."),
            Reason(
                "False",
                "OrphansFound",
                "Devices are attached without a DeviceAttachment; they and their hosts are not offered.",
                "Detach them, take them over with a LogicalNode's `spec.adopt`, or set `spec.orphanPolicy`.",
                event="Warning",
            ),
        ),
    ),
    ConditionType(
        FABRIC,
        "CallsSucceed",
        "No call to the manager failed lately without being repeated with success.",
        (
            Reason("True", "Succeeded", "What had failed was repeated with success, or is long ago."),
            Reason(
                "False",
                "CallFailed",
                "The manager answered calls at the hosts that the message names with errors.",
                "Mend what the manager's words say; the calls are repeated by themselves while they are needed.",
                event="Warning",
            ),
        ),
    ),
    ConditionType(
        FABRIC,
        "Writable",
        "The manager shows a way to attach devices that the driver knows.",
        (
            Reason(
                "True", "WritesOffered", "Devices can be attached; the message names hosts where they cannot."
            ),
            Reason(
                "False",
                "WritesNotOffered",
                "The manager shows no way to attach devices that the driver knows.",
                "See docs/fabrics.md for what a manager has to offer.",
                event="Warning",
            ),
        ),
    ),
    ConditionType(
        FABRIC,
        "HostsMatched",
        "The Nodes of the fabric's hosts can be told apart, and what `spec.hosts` names is there.",
        (
            Reason("True", "HostsMatched", "There is nothing to correct."),
            Reason(
                "False",
                "HostsAmbiguous",
                "Several hosts are matched with one Node, or several machines have one UUID.",
                "Remove one of them; nothing is placed there until then.",
                event="Warning",
            ),
            Reason(
                "False",
                "HostNotFound",
                "`spec.hosts` names a host or Node that is not there.",
                "Correct `spec.hosts`.",
                event="Warning",
            ),
        ),
    ),
    ConditionType(
        FABRIC,
        "HostsDrained",
        "Nothing is claimed or attached any more at the hosts that `spec.maintenance` takes out of service.",
        (
            Reason("True", "Drained", "They are safe to pull."),
            Reason(
                "False",
                "InUse",
                "Something is still claimed or attached; the message names it.",
                "Wait, or set `spec.maintenance.drain`; the LogicalNode's condition Draining says for what.",
                see="LogicalNode.Draining",
            ),
            Reason(
                "False",
                "HostNotFound",
                "`spec.maintenance.hosts` names a host that the manager does not have.",
                "Correct `spec.maintenance.hosts`.",
                event="Warning",
            ),
            Reason(
                "False",
                "NotRead",
                "The last reading of the manager was not whole, so that nobody can say what is there.",
                "See the condition InventoryComplete.",
                see="InventoryComplete",
                event="Warning",
            ),
            Reason("False", "NoMaintenance", "Nothing is out of service."),
        ),
    ),
    ConditionType(
        FABRIC,
        "UnclaimedOffered",
        "True warns: hosts are offered although they have devices that nobody here claims.",
        (
            Reason(
                "True",
                "OfferedOnPurpose",
                "`spec.hostsWithUnclaimedDevices` has hosts with such devices.",
                "Take a host off the list if its devices are in use by others.",
                event="Warning",
            ),
            Reason("False", "NoneThere", "None of the listed hosts has such devices."),
        ),
    ),
    ConditionType(
        FABRIC,
        "Deletable",
        "Said of a Fabric that is being deleted.",
        (
            Reason(
                "False",
                "InUse",
                "DeviceAttachments on it are left.",
                "Delete the LogicalNodes that are bound there.",
                event="Warning",
            ),
        ),
    ),
    ConditionType(
        POOLS,
        "Ready",
        "The pool's fabric is read, and its devices are offered.",
        (
            Reason("True", "FabricRead", "The counts follow the fabric."),
            Reason(
                "True",
                "NoDevices",
                "The fabric is read, and `spec.selector` selects none of its devices.",
                "Compare `spec.selector` with `weft fabric probe`, unless the devices are yet to be added.",
            ),
            Reason(
                "False",
                "FabricNotFound",
                "There is no Fabric of the name in `spec.fabricRef`.",
                "Create it, or delete the pool and make one with another `spec.fabricRef`.",
            ),
            Reason(
                "False",
                "FabricUnreachable",
                "The Fabric is not Connected; the last counts stay.",
                "See the Fabric's condition Connected.",
                see="Fabric.Connected",
            ),
            *_INVENTORY,
            Reason(
                "False",
                "InUse",
                "The pool is being deleted and offers nothing; DeviceAttachments from it are left.",
                "Delete the LogicalNodes that hold its devices.",
            ),
        ),
    ),
    ConditionType(
        POOLS,
        "Overlapping",
        "True warns: an older pool has devices that this one selects, too.",
        (
            Reason(
                "True",
                "SelectedTwice",
                "The devices count for the older pool.",
                "Narrow the selector of one of the pools.",
            ),
            Reason("False", "NoOverlap", "No device is selected by an older pool."),
        ),
    ),
    ConditionType(
        POOLS,
        "MaintenanceMatched",
        "The pool has every device that `spec.maintenance.devices` names.",
        (
            Reason("True", "DevicesFound", "They are withheld."),
            Reason(
                "False",
                "DeviceNotFound",
                "The pool does not have a device that is named.",
                "Correct `spec.maintenance.devices`.",
            ),
        ),
    ),
    ConditionType(
        POOLS,
        "Drained",
        "Nothing of what `spec.maintenance` takes out of service is claimed or attached any more.",
        (
            Reason("True", "Drained", "It is safe to pull."),
            Reason(
                "False",
                "InUse",
                "Something is still claimed or attached; the message names it.",
                "Wait, or set `spec.maintenance.drain`; the LogicalNode's condition Draining or Resized says for what.",
                see="LogicalNode.Draining",
            ),
            Reason("False", "NoMaintenance", "Nothing is out of service."),
        ),
    ),
    ConditionType(
        QUOTA,
        "WithinLimits",
        "The namespace holds no more than the quota allows.",
        (
            Reason("True", "WithinLimits", "No limit is exceeded."),
            Reason(
                "False",
                "LimitLowered",
                "More is held than a limit allows, since it was lowered or set later; it stays until it is released.",
                "Delete LogicalNodes of the namespace, or raise the limit.",
            ),
        ),
    ),
    ConditionType(
        QUOTA,
        "PoolsFound",
        "Every pool that `spec.limits` names exists.",
        (
            Reason("True", "PoolsFound", "All of them do."),
            Reason("False", "PoolNotFound", "A pool that is named does not exist.", "Correct `spec.limits`."),
        ),
    ),
    ConditionType(
        ATTACHMENT,
        "Quarantined",
        "True warns: the device failed and is not offered again.",
        (
            Reason(
                "True",
                "AttachFailed",
                "The device could not be attached, for what the message quotes.",
                "Have the device looked at, then delete this DeviceAttachment to offer it again.",
                "Warning",
            ),
            Reason(
                "True",
                "DeviceFailed",
                "The device was faulty or missing while it was attached, and was replaced.",
                "Have the device looked at, then delete this DeviceAttachment to offer it again.",
                "Warning",
            ),
        ),
    ),
    ConditionType(
        ATTACHMENT,
        "Leaving",
        "True warns: the device is to be detached while its logical node stays bound with its others.",
        (
            Reason(
                "True",
                "Surplus",
                "The LogicalNode asks for less than it has.",
                "Nothing; it goes when no pod uses the host.",
            ),
            Reason(
                "True",
                "Maintenance",
                "An administrator takes the device out of service, to be drained.",
                "Nothing; it goes when no pod uses the host. The LogicalNode gets another.",
            ),
            Reason(
                "True",
                "DeviceFailed",
                "The device is faulty or missing, and its LogicalNode wants it replaced.",
                "Nothing; it is quarantined when it is detached.",
            ),
        ),
    ),
)

EVENTS = (
    Event(
        FABRIC,
        "Warning",
        "ManagerAccepted",
        "A manager with another UUID counts as the earlier one, as the annotation `weft.dev/accept-manager` says.",
        "If that was not meant, set `spec.mode` to Observe and look at what is attached there.",
    ),
    Event(
        FABRIC,
        "Warning",
        "OrphansDetached",
        "Devices without a DeviceAttachment were detached, as `spec.orphanPolicy` Detach says.",
        "Set `spec.orphanPolicy` to Report if that was not meant.",
    ),
    Event(
        DETACHED_FOR,
        "Normal",
        "Detached",
        "Devices were detached, and the host was seen without them.",
    ),
    Event(
        DETACHED_FOR,
        "Warning",
        "DetachFailed",
        "The host still had the devices after a call that detaches them, or was not read since.",
        "Nothing; it is tried again, and the conditions say so while it goes on.",
    ),
    Event(
        ATTACHMENT,
        "Normal",
        "QuarantineCleared",
        "An administrator deleted the attachment of a quarantined device: it is offered again.",
    ),
)

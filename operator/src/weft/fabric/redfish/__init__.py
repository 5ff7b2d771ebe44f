"""Driver for managers that speak DMTF Redfish, composition idiom: resource blocks into existing systems."""

from weft.fabric.redfish.driver import RedfishDriver

__all__ = ["RedfishDriver"]

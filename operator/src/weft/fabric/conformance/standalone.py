"""What `python -m weft.fabric.conformance` hands to pytest."""

from weft.fabric.conformance import DriverConformance


class TestDriver(DriverConformance):
    """The driver of the command line."""

"""How often a group is looked at when nothing happens to its objects."""

LOOK_SECONDS = 2.0
MOVING_SECONDS = 0.5
"""While something drains or is on its way."""

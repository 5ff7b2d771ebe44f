"""What `weft plan` and the operator have agreed on."""

PLAN_AUDIENCE = "weft.dev/plan"
"""Of the tokens that show for which namespace somebody asks: the API server takes them for nothing else."""
TOKEN_HEADER = "Weft-Token"
MOST_OBJECTS = 64
MOST_BYTES = 256 * 1024

"""Programs for Weft's developers: tools, a local control plane, the demo. Not part of the operator."""

"""A kind cluster of one control-plane node and two workers, made once and reused.

Its nodes come from kind's own node image where that can be pulled, else from one that is built here out of Debian
packages and Go modules (hack/offline). `python -m weft_dev.kind down|status`; `weft_dev.kind_site` makes it.
"""

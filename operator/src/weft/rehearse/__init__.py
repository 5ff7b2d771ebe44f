"""Replays recorded traffic on a model of a group, in virtual time: what each policy would have given.

Pure but for reading files and Prometheus: nothing here knows of a cluster.
"""

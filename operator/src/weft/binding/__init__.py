"""Devices of a fabric become logical nodes: observe, decide, apply."""

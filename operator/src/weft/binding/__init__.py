"""Devices of a fabric become logical nodes: observe, plan, apply."""

"""Weft composes pooled hardware into logical nodes and balances prefill and decode over them."""

__version__ = "0.16.0"

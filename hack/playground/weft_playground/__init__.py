"""Pretended inference engines, a router and their load; `weft_playground.demo` makes a story of them."""

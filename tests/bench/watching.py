"""When logical nodes became Bound, by a watch of this program's own: polling would be a load."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from typing import Self
from urllib.parse import urlsplit

from support.world import condition
from weft.api.resources import LOGICAL_NODES
from weft_dev.controlplane import ControlPlane


class Bound:
    """Watches the logical nodes of a namespace from now on."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        context = ssl.create_default_context(cafile=str(plane.ca_file))
        listed = plane.client().request("GET", LOGICAL_NODES.path(namespace), query={"limit": "1"})
        version = listed["metadata"]["resourceVersion"]
        address = urlsplit(plane.url)
        link = http.client.HTTPSConnection(address.hostname or "", address.port, context=context)
        path = f"{LOGICAL_NODES.path(namespace)}?watch=1&resourceVersion={version}"
        link.request("GET", path, headers={"Authorization": f"Bearer {plane.token}"})
        self._socket, self._stream = link.sock, link.getresponse()
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
        # Closing the stream would wait for the thread that reads it.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()

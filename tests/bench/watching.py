"""When logical nodes became Bound, by a watch of this program's own: polling would be a load."""

from __future__ import annotations

import contextlib
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
from weft.cluster import Object
from weft_dev.controlplane import ControlPlane


class Bound:
    """Watches the logical nodes of a namespace from now on."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane, self._path = plane, LOGICAL_NODES.path(namespace)
        listed = plane.client().request("GET", self._path, query={"limit": "1"})
        self._version, self._closed = listed["metadata"]["resourceVersion"], False
        self._connect()
        self._times: dict[str, float] = {}
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        context = ssl.create_default_context(cafile=str(self._plane.ca_file))
        address = urlsplit(self._plane.url)
        link = http.client.HTTPSConnection(address.hostname or "", address.port, context=context)
        path = f"{self._path}?watch=1&resourceVersion={self._version}"
        link.request("GET", path, headers={"Authorization": f"Bearer {self._plane.token}"})
        self._socket, self._stream = link.sock, link.getresponse()

    def _read(self) -> None:
        while not self._closed:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, by one side or the other
                for line in self._stream:
                    self._hear(json.loads(line)["object"], time.monotonic())
            # The API server ends the watch of one that is slow: a burst of thousands would be waited for in vain.
            if not self._closed:
                self._connect()

    def _hear(self, obj: Object, arrived: float) -> None:
        self._version = obj["metadata"]["resourceVersion"]
        if condition(obj, "Bound") == "True":
            with self._changed:
                self._times.setdefault(obj["metadata"]["name"], arrived)
                self._changed.notify_all()

    def when(self, name: str, seconds: float) -> float:
        """When it became Bound (time.monotonic); waits for it. Raises AssertionError."""
        with self._changed:
            assert self._changed.wait_for(lambda: name in self._times, seconds), f"{name} is not bound"
            return self._times[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing the stream would wait for the thread that reads it.
        self._closed = True
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()

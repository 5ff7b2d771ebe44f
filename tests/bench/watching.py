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
from weft.cluster import ClusterError, Object
from weft_dev.controlplane import ControlPlane

ENDED = (OSError, http.client.HTTPException, ValueError, AttributeError, ClusterError)
"""What reading a stream, or beginning one, comes to when one side or the other closed it."""
AGAIN_SECONDS = 0.1
"""Between two tries to begin, so that an API server that is busy is not asked without a pause."""


class Bound:
    """Watches the logical nodes of a namespace from now on."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane, self._path, self._closed = plane, LOGICAL_NODES.path(namespace), False
        self._times: dict[str, float] = {}
        self._changed = threading.Condition()
        self._connect()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        """List, and watch from there on.

        The API server ends the watch of one that is slow, as in a burst of thousands, and may have forgotten what came
        since: what became Bound meanwhile is in a list alone, and has the list's time.
        """
        listed = self._plane.client().request("GET", self._path)
        for obj in listed["items"]:
            self._hear(obj, time.monotonic())
        address = urlsplit(self._plane.url)
        if address.scheme == "https":
            context = ssl.create_default_context(cafile=str(self._plane.ca_file))
            link: http.client.HTTPConnection = http.client.HTTPSConnection(address.netloc, context=context)
        else:
            link = http.client.HTTPConnection(address.netloc)
        path = f"{self._path}?watch=1&resourceVersion={listed['metadata']['resourceVersion']}"
        link.request("GET", path, headers={"Authorization": f"Bearer {self._plane.token}"})
        self._socket, self._stream = link.sock, link.getresponse()

    def _read(self) -> None:
        while not self._closed:
            with contextlib.suppress(*ENDED):
                for line in self._stream:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    self._hear(event["object"], time.monotonic())
            while not self._closed:
                with contextlib.suppress(*ENDED):
                    self._connect()
                    break
                time.sleep(AGAIN_SECONDS)

    def _hear(self, obj: Object, arrived: float) -> None:
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

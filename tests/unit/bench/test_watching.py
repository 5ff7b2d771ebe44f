"""The benches' own watch goes on whatever ends it: what it missed would be waited for in vain."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from watching import Bound

Object = dict[str, Any]


@dataclass
class Plane:
    """An API server that has three logical nodes, of which each watch shows one, and then ends as `ends` say."""

    ends: list[str]
    url: str = ""
    ca_file: Path = Path("/dev/null")
    token: str = "secret"
    bound: list[str] = field(default_factory=list)
    since: list[int] = field(default_factory=list)
    """Versions that watches began with."""
    wanted: threading.Event = field(default_factory=threading.Event)
    """Set when the last watch may go on."""

    def client(self) -> Plane:
        return self

    def request(self, method: str, path: str, **_: Any) -> Object:
        # Like the API server's, a list has the versions of all that it shows behind it.
        return {
            "metadata": {"resourceVersion": str(10 * len(self.bound))},
            "items": [_bound(name, 10 * number) for number, name in enumerate(self.bound, 1)],
        }


def _bound(name: str, version: int) -> Object:
    conditions = [{"type": "Bound", "status": "True", "reason": "Bound"}]
    metadata = {"name": name, "resourceVersion": str(version)}
    return {"metadata": metadata, "status": {"conditions": conditions}}


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[ThreadingHTTPServer] = []

    def start(plane: Plane) -> Plane:
        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                plane.since.append(int(parse_qs(urlsplit(self.path).query)["resourceVersion"][0]))
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                if not plane.ends:
                    plane.wanted.wait(10)
                    self._chunk({"type": "MODIFIED", "object": _bound("last", 99)})
                    return
                end = plane.ends.pop(0)
                plane.bound.append(f"seen-{end}")
                plane.bound.append(f"missed-{end}")
                self._chunk({"type": "MODIFIED", "object": _bound(f"seen-{end}", 10 * len(plane.bound) - 10)})
                if end == "gone":
                    gone = {"kind": "Status", "metadata": {}, "code": 410, "reason": "Expired"}
                    self._chunk({"type": "ERROR", "object": gone})
                elif end == "cut":
                    self.wfile.write(b"400\r\n{half")
                self.wfile.flush()
                self.close_connection = True

            def _chunk(self, event: Object) -> None:
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        plane.url = f"http://127.0.0.1:{server.server_port}"
        return plane

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("end", ["gone", "cut", "closed"])
def test_what_was_bound_while_the_watch_was_away_is_known_and_the_watch_goes_on(serve: Any, end: str) -> None:
    plane = serve(Plane([end, end]))
    with Bound(plane, "bench") as bound:
        for name in (f"seen-{end}", f"missed-{end}"):
            assert bound.when(name, 10) > 0
        plane.wanted.set()
        assert bound.when("last", 10) > 0
    assert plane.since == [0, 20, 40]

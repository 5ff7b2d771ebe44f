"""Starting servers that cannot outlive this process, on loopback ports of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LOG_LINES = 20


class ProcessError(Exception):
    """A server did not start or did not stay; the message has the end of its log."""


def free_ports(count: int) -> list[int]:
    """`count` TCP ports of 127.0.0.1 on which nothing listens now. Another process may still take one first."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def log_tail(log: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log file, or nothing when there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


class Stoppable:
    """What runs in a group of processes of its own; a context manager that ends them."""

    processes: ProcessGroup

    def stop(self) -> None:
        """End all servers and remove the temporary directory. A second call does nothing."""
        self.processes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ProcessGroup:
    """Servers that end with this process, also when it is killed, and the directory that they share.

    Without a `directory` they get a temporary one, which is removed at the end. Usable as a context manager;
    safe to use from several threads.
    """

    def __init__(self, directory: Path | None = None, *, prefix: str = "weft-") -> None:
        self.directory = directory or Path(tempfile.mkdtemp(prefix=prefix))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.pids: dict[str, int] = {}
        """Process id of each server that was started, by name."""
        self._lock = threading.Lock()
        self._temporary = directory is None
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self._temporary:
            self._ask(do="remove-at-end", directory=str(self.directory))

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        working_directory: Path | None = None,
    ) -> int:
        """Start a server under `name`, which must not be running, and return its process id.

        Its output goes to `log(name)`. `environment` replaces this process's own when given.
        """
        answer = self._ask(
            do="start",
            name=name,
            command=[str(part) for part in command],
            environment=dict(os.environ if environment is None else environment),
            working_directory=str(working_directory or self.directory),
            log=str(self.log(name)),
        )
        self.pids[name] = int(answer["pid"])
        return self.pids[name]

    def log(self, name: str) -> Path:
        """The file that takes what the server prints."""
        return self.directory / f"{name}.log"

    def exit_code(self, name: str) -> int | None:
        """The exit status of a server that was started and not stopped; None while it runs."""
        code: int | None = self._ask(do="poll", name=name)["code"]
        return code

    def check(self, *names: str) -> None:
        """Raise ProcessError when one of the servers has ended by itself."""
        for name in names:
            code = self.exit_code(name)
            if code is not None:
                raise ProcessError(f"{name} ended with status {code}:\n{log_tail(self.log(name))}")

    def stop(self, name: str, *, grace_seconds: float = 10.0) -> None:
        """Ask a server to end and wait for it; after `grace_seconds` (0: at once) it is killed."""
        self._ask(do="stop", name=name, grace_seconds=grace_seconds)

    def close(self) -> None:
        """End all servers, the last one started first, and remove the directory if it is temporary."""
        with self._lock:
            for pipe in (self._guardian.stdin, self._guardian.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            self._guardian.wait()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        with self._lock:
            pipe_in, pipe_out = self._guardian.stdin, self._guardian.stdout
            assert pipe_in is not None
            assert pipe_out is not None
            if pipe_in.closed:
                raise ProcessError("these processes have been closed already")
            try:
                pipe_in.write(json.dumps(request).encode() + b"\n")
                pipe_in.flush()
                line = pipe_out.readline()
            except BrokenPipeError:
                line = b""
            except KeyboardInterrupt:
                # The answer is still in the pipe and would be taken for the next one's: end everything instead.
                pipe_in.close()
                raise
        if not line:
            raise ProcessError("the guardian of the servers has been killed")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ProcessError(f"cannot {request['do']} {request.get('name', '')}: {answer['error']}")
        return answer

"""Keeps child processes no longer than the process that asked for them.

A program that starts servers may be killed with SIGKILL, and then runs no code of its own. So it does not start
them itself: it starts this guardian and asks it, over a pipe, to start them. When the pipe closes, for
whatever reason, the guardian ends every server, removes their directory and exits. When the guardian itself
is killed, the kernel ends the servers (PR_SET_PDEATHSIG). It has a session of its own, so Ctrl-C in a terminal
reaches the program alone, and the program decides in which order to stop.

Runs with nothing but the standard library: `python -I -S guardian.py`. One JSON object per line in, one per line out.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 1.0


def _die_with_parent() -> Callable[[], None] | None:
    """What a child runs before it becomes the server: on Linux, ask the kernel to end it with its parent."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


class Guardian:
    """The servers that run, by name in the order of their start."""

    def __init__(self) -> None:
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.directories: list[str] = []
        self.prepare = _die_with_parent()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        match request["do"]:
            case "remove-at-end":
                self.directories.append(request["directory"])
                return {}
            case "start":
                return {"pid": self.start(request)}
            case "poll":
                return {"code": self.children[request["name"]].poll()}
            case "stop":
                self.stop(request["name"], request["grace_seconds"])
                return {}
            case unknown:
                return {"error": f"no such request: {unknown}"}

    def start(self, request: dict[str, Any]) -> int:
        with open(request["log"], "ab") as log:
            child = subprocess.Popen(
                request["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=request["environment"],
                cwd=request["working_directory"],
                preexec_fn=self.prepare,
                process_group=0,
            )
        self.children[request["name"]] = child
        return child.pid

    def stop(self, name: str, grace_seconds: float) -> None:
        """Ask the server to end, kill it when it has not after `grace_seconds` (0: at once), and reap it."""
        child = self.children.pop(name, None)
        if child is None:
            return
        if grace_seconds > 0 and child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(grace_seconds)
        # The group, because a build or a shell has children of its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def end(self) -> None:
        """End every server, the last one started first: a server is started after those that it needs."""
        for name in reversed(list(self.children)):
            self.stop(name, 0)
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)
            # A process that was just killed may have been in the middle of creating a file.
            if os.path.exists(directory):
                time.sleep(0.1)
                shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    # Ends through its pipe alone: a signal meant for the program that it serves must not reach the servers first.
    # A handler, and not SIG_IGN, because the servers would inherit the latter.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, lambda *_: None)
    guardian = Guardian()
    parent = os.getppid()
    pending = b""
    try:
        while True:
            readable, _, _ = select.select([0], [], [], POLL_SECONDS)
            if not readable:
                # A program that forked may have left a copy of the pipe open in another process.
                if os.getppid() != parent:
                    return
                continue
            received = os.read(0, 65536)
            if not received:
                return
            pending += received
            *lines, pending = pending.split(b"\n")
            for line in lines:
                try:
                    answer = guardian.answer(json.loads(line))
                except (OSError, KeyError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                os.write(1, json.dumps(answer).encode() + b"\n")
    except BrokenPipeError:
        return
    finally:
        guardian.end()


if __name__ == "__main__":
    main()

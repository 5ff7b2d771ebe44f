"""`weft emulator`: start the service, say where it listens, end it cleanly."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from weft.emulator import metadata, redfish
from weft.emulator.changes import Changes, Latency
from weft.emulator.dialects import DIALECTS
from weft.emulator.faults import Faults
from weft.emulator.inventory import InventoryError, World, load
from weft.emulator.journal import DONE, Journal, entries
from weft.emulator.quirks import NO_QUIRKS, Quirk, Quirks
from weft.emulator.server import Server
from weft.emulator.sessions import Sessions
from weft.emulator.state import State
from weft.emulator.tasks import Tasks
from weft.emulator.tree import Tree

_SHUTDOWN_SECONDS = 0.3


class StartError(Exception):
    """The emulator cannot start; the text says why."""


@dataclass(frozen=True)
class Settings:
    """How the emulator behaves."""

    journal: Path | None = None
    state: Path | None = None
    seed: int = 0
    permissive: bool = False
    user: str = ""
    password: str = ""
    latency_milliseconds: float = 0.0
    async_tasks: bool = False
    page_size: int | None = None
    session_timeout_seconds: int = 1800
    dialect: str = "compose-by-patch"
    quirks: Quirks = NO_QUIRKS


def write_atomically(path: Path, text: str) -> None:
    """Replace the file as a whole: a reader sees the old text or the new."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _restore(settings: Settings, state: State, journal: Journal) -> bool:
    """Take over the last run's attachments; whether there were any records of it."""
    if settings.state is None or not settings.state.exists():
        return False
    try:
        data: dict[str, Any] = json.loads(settings.state.read_text(encoding="utf-8"))
        if (written := data.get("dialect", settings.dialect)) != settings.dialect:
            raise ValueError(f"it was written in the dialect {written}")
        state.restore(data)
        if settings.journal is not None and settings.journal.exists():
            # A kill between the journal and the state file leaves acts that only the journal has.
            for entry in entries(settings.journal.read_text(encoding="utf-8").splitlines()):
                if entry["seq"] <= data["journalSeq"] or entry["outcome"] != DONE:
                    continue
                if "path" in entry:
                    state.replay_record(entry["path"], entry["record"])
                elif entry["block"]:
                    state.replay(entry["act"], entry["host"], entry["block"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StartError(f"{settings.state}: cannot be used: {error}") from error
    journal.write("start", outcome="restored")
    return True


def build(world: World, settings: Settings) -> web.Application:
    """The whole service as an aiohttp application. Raises StartError."""
    state = State(world, settings.permissive)
    faults = Faults(world.faults)
    try:
        journal = Journal(settings.journal)
    except (OSError, ValueError, KeyError) as error:
        raise StartError(f"{settings.journal}: {error}") from error
    if not _restore(settings, state, journal):
        journal.write("start", outcome="empty")
    sessions = Sessions(settings.user, settings.password, settings.session_timeout_seconds)
    tasks = Tasks()
    dialect = DIALECTS[settings.dialect](world, state, settings.quirks)
    tree = Tree(world, state, faults, dialect, settings.session_timeout_seconds)
    tree.add_source(redfish.SESSIONS, "Session", "Sessions", sessions.documents)
    tree.add_source(redfish.TASKS, "Task", "Tasks", tasks.documents)
    accounts = {"1": metadata.account(settings.user)} if settings.user else {}
    tree.add_source(metadata.ACCOUNTS, "ManagerAccount", "Accounts", lambda: accounts)
    tree.add_source(metadata.ROLES, "Role", "Roles", metadata.roles)
    latency = Latency(settings.latency_milliseconds, settings.seed)

    def save() -> None:
        if settings.state is not None:
            write_atomically(
                settings.state,
                json.dumps(state.dump() | {"journalSeq": journal.seq, "dialect": settings.dialect}),
            )

    save()
    asynchronous = settings.async_tasks or Quirk.TASKS in settings.quirks
    changes = Changes(state, tree, faults, journal, tasks, latency, save, asynchronous, settings.quirks)
    server = Server(dialect, tree, changes, tasks, sessions, faults, journal, settings.page_size)
    return server.application()


async def serve(
    application: web.Application,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT; `ready` gets the URL once it listens."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls, backlog=1024).start()
        address, bound = runner.addresses[0][:2]
        shown = f"[{address}]" if ":" in address else address
        ready(f"{'https' if tls else 'http'}://{shown}:{bound}")
        await stop.wait()
    finally:
        await runner.cleanup()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="weft emulator", description="A fabric manager that speaks Redfish."
    )
    parser.add_argument("--inventory", type=Path, required=True, help="YAML file: hosts, devices, domains")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="0 (default): a free port")
    parser.add_argument("--journal", type=Path, help="append one JSON line for each act")
    parser.add_argument("--state", type=Path, help="keep attachments here across restarts")
    parser.add_argument("--seed", type=int, default=0, help="of the latencies")
    parser.add_argument("--permissive", action="store_true", help="attach whatever is asked, even twice")
    parser.add_argument("--user", default="", help="require this user and the password of --password-file")
    parser.add_argument("--password-file", type=Path, help="file with it")
    parser.add_argument(
        "--session-timeout", type=int, default=1800, metavar="SECONDS", help="of a login (default: 1800)"
    )
    parser.add_argument("--tls-cert", type=Path, help="serve https with this certificate (PEM)")
    parser.add_argument("--tls-key", type=Path, help="and this key (PEM)")
    parser.add_argument(
        "--latency-ms", type=float, default=0.0, metavar="MEAN", help="of each attach and detach"
    )
    parser.add_argument("--async-tasks", action="store_true", help="answer changes with 202 and a task")
    parser.add_argument("--page-size", type=int, help="members of a collection per answer")
    parser.add_argument(
        "--dialect", choices=DIALECTS, default="compose-by-patch", help="how it lets clients compose"
    )
    parser.add_argument(
        "--quirks", default="", metavar="A,B", help=f"habits of real managers: {', '.join(Quirk)}"
    )
    parser.add_argument("--ready-file", type=Path, help="write the URL here once the service listens")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    if bool(options.user) != bool(options.password_file):
        raise StartError("--user and --password-file go together")
    if bool(options.tls_cert) != bool(options.tls_key):
        raise StartError("--tls-cert and --tls-key go together")
    if options.page_size is not None and options.page_size < 1:
        raise StartError("--page-size must be at least 1")
    if options.latency_ms < 0 or options.session_timeout < 1:
        raise StartError("--latency-ms must not be negative, --session-timeout at least 1")
    try:
        quirks = Quirks.parse(options.quirks)
    except ValueError as error:
        raise StartError(f"--quirks: {error}") from error
    password = options.password_file.read_text(encoding="utf-8").rstrip("\n") if options.password_file else ""
    return Settings(
        journal=options.journal,
        state=options.state,
        seed=options.seed,
        permissive=options.permissive,
        user=options.user,
        password=password,
        latency_milliseconds=options.latency_ms,
        async_tasks=options.async_tasks,
        page_size=options.page_size,
        session_timeout_seconds=options.session_timeout,
        dialect=options.dialect,
        quirks=quirks,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the emulator until it is told to stop. 2: it could not start."""
    options = _parser().parse_args(argv)

    def ready(url: str) -> None:
        if options.ready_file is not None:
            write_atomically(options.ready_file, url + "\n")
        sys.stdout.write(url + "\n")
        sys.stdout.flush()

    try:
        settings = _settings(options)
        tls = None
        if options.tls_cert is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(options.tls_cert, options.tls_key)
        application = build(load(options.inventory), settings)
        uvloop.run(serve(application, options.host, options.port, tls, ready))
    except (StartError, InventoryError, OSError) as error:
        sys.stderr.write(f"weft emulator: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

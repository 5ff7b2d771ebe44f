"""`python -m weft.fabric.conformance --driver module:Class --endpoint URL`: run the suite against one manager."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from weft.fabric.conformance import Bench
from weft.fabric.driver import Connection, Driver


class _Given:
    """A pytest plugin: the bench of the command line."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    @pytest.fixture
    def bench(self) -> Bench:
        """What is tested."""
        return self._bench


def _load(name: str) -> Callable[[Connection], Driver]:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("write it as module:Class, for example my_package.driver:MyDriver")
    try:
        found: Callable[[Connection], Driver] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{name}: {error}") from error
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """pytest's exit status: 0 when the driver passes."""
    parser = argparse.ArgumentParser(prog="python -m weft.fabric.conformance", description=__doc__)
    parser.add_argument("--driver", type=_load, required=True, metavar="MODULE:CLASS")
    parser.add_argument("--endpoint", required=True, metavar="URL", help="of a manager that may be changed")
    parser.add_argument("--username", default="")
    parser.add_argument("--password-file", type=Path)
    parser.add_argument("--ca", type=Path, metavar="FILE", help="PEM certificates to trust")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="of a request")
    parser.add_argument(
        "--patience", type=float, default=10.0, metavar="SECONDS", help="until a change is seen"
    )
    parser.add_argument(
        "--whole-hosts", action="store_true", help="it changes the devices of a host only all together"
    )
    parser.add_argument("pytest", nargs="*", help="after --: options of pytest, for example -- -x -k attach")
    options = parser.parse_args(argv)
    connection = Connection(
        options.endpoint,
        username=options.username,
        password=options.password_file.read_text().rstrip("\n") if options.password_file else "",
        ca_pem=options.ca.read_text() if options.ca else "",
        requests_per_second=1000.0,
        request_timeout_seconds=options.timeout,
    )
    bench = Bench(
        options.driver, connection, whole_hosts=options.whole_hosts, patience_seconds=options.patience
    )
    here = Path(__file__).parent
    arguments = [
        str(here / "standalone.py"), "--rootdir", str(here), "-c", "/dev/null", "-p", "no:cacheprovider",
        "-p", "no:asyncio",
        *options.pytest,
    ]  # fmt: skip
    return int(pytest.main(arguments, plugins=[_Given(bench)]))


if __name__ == "__main__":
    sys.exit(main())

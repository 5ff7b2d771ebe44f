"""How commands that ask a Prometheus server are told to reach it: options, as the operator's settings of a source."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.balancing.settings import SourceSettings


OPTIONS = {
    "url": "--prometheus",
    "bearer_token_file": "--prometheus-token-file",
    "ca_file": "--prometheus-ca",
    "certificate_file": "--prometheus-cert",
    "key_file": "--prometheus-key",
    "headers": "--prometheus-header",
    "query_parameters": "--prometheus-parameter",
}
"""By the key of the operator's settings that says the same."""


def add_options(parser: argparse._ActionsContainer) -> None:
    """Beside `--prometheus URL`."""
    parser.add_argument(
        "--prometheus-token-file", type=Path, metavar="FILE", help="holds a bearer token to show it"
    )
    parser.add_argument(
        "--prometheus-ca", type=Path, metavar="FILE", help="PEM certificates that its own has to be signed by"
    )
    parser.add_argument(
        "--prometheus-cert", type=Path, metavar="FILE", help="a PEM certificate to show it, with its chain"
    )
    parser.add_argument(
        "--prometheus-key", type=Path, metavar="FILE", help="the key of that (default: in the same file)"
    )
    parser.add_argument(
        "--prometheus-header",
        type=_header,
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="sent with each query, for example X-Scope-OrgID:team-a; may be repeated",
    )
    parser.add_argument(
        "--prometheus-parameter",
        type=_parameter,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="added to each query, for example dedup=true; may be repeated",
    )


def settings_of(options: argparse.Namespace) -> SourceSettings | None:
    """What the options say of the server; None: there is none to ask.

    Raises ValueError with a sentence where they do not go together.
    """
    from pydantic import ValidationError

    from weft.balancing.settings import SourceSettings

    if options.prometheus is None:
        for each in OPTIONS.values():
            if getattr(options, each[2:].replace("-", "_")):
                raise ValueError(f"{each}: goes with --prometheus URL")
        return None
    parameters: dict[str, list[str]] = {}
    for name, value in options.prometheus_parameter:
        parameters.setdefault(name, []).append(value)
    files = {
        "bearer_token_file": options.prometheus_token_file,
        "ca_file": options.prometheus_ca,
        "certificate_file": options.prometheus_cert,
        "key_file": options.prometheus_key,
    }
    try:
        settings = SourceSettings(
            url=options.prometheus,
            **{key: str(path.absolute()) for key, path in files.items() if path is not None},
            headers=dict(options.prometheus_header),
            query_parameters=parameters,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = str(first["loc"][0]) if first["loc"] else ""
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_pattern_mismatch":
            text = "is not of the form " + first["ctx"]["pattern"]
        if where == "url":
            text = "has to begin with http:// or https://"
        raise ValueError(
            f"{OPTIONS[where]}: {text}" if where in OPTIONS else f"--prometheus: {text}"
        ) from error
    signs_in = settings.bearer_token_file or any(name.lower() == "authorization" for name in settings.headers)
    if signs_in and "@" in settings.url.partition("//")[2].partition("/")[0]:
        raise ValueError("--prometheus: has a login, and a token is given, too: give one of them")
    return settings


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("has to be NAME:VALUE")
    return name.strip(), value.strip()


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError("has to be NAME=VALUE")
    return name, value

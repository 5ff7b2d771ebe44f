"""Structured logs: one JSON object a line, or plain text for people."""

from __future__ import annotations

import logging

from pythonjsonlogger.json import JsonFormatter

FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure(log_format: str, level: str) -> None:
    """Send all logs to stderr in the given format (`json` or `text`)."""
    handler = logging.StreamHandler()
    if log_format == "json":
        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter(FIELDS, rename_fields=names))
    else:
        handler.setFormatter(logging.Formatter(FIELDS))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("aiohttp", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    # While the API server is away kopf reports every attempt of every watch; the lease's warnings say it once.
    logging.getLogger("kopf").setLevel(logging.CRITICAL)

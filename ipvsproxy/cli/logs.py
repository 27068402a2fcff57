"""Sets up logging: one form for our lines and for those of the libraries, on standard error.

Knows formats and levels; who logs what is not its affair. Lines go to standard error, for standard
output belongs to the answers of commands.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO

import msgspec
import structlog
from structlog.types import Processor

from ipvsproxy.config import LogFormat

_DEBUG_FROM = 4
"""klog's habit: -v=4 is debug."""

_LIBRARIES = {
    "kubernetes_asyncio": logging.INFO,  # its debug lines hold whole bodies, Secrets included
    "aiohttp": logging.WARNING,
    "watchfiles": logging.WARNING,
    "asyncio": logging.WARNING,
}
"""Lowest level that is shown of each, however verbose we are."""


def configure(
    log_format: LogFormat, verbosity: int, *, node: str, stream: TextIO | None = None
) -> None:
    """Send our log lines and the libraries' to `stream` (standard error)."""
    stream = stream if stream is not None else sys.stderr
    console = log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and stream.isatty())
    level = logging.DEBUG if verbosity >= _DEBUG_FROM else logging.INFO
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    rendering = _console(stream) if console else _json(node)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name, lowest in _LIBRARIES.items():
        logging.getLogger(name).setLevel(lowest)


def _console(stream: TextIO) -> list[Processor]:
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="ts")]


def _json(node: str) -> list[Processor]:
    def add_node(
        _logger: object, _method: str, event: structlog.types.EventDict
    ) -> structlog.types.EventDict:
        event.setdefault("node", node)
        return event

    return [
        add_node,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_serialize),
    ]


def _serialize(event: object, **_: object) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except UnicodeEncodeError:  # half a surrogate pair, as in a file name that is not UTF-8
        return json.dumps(event, default=str)


def quiet() -> None:
    """Show errors only, as console lines: for commands whose output says all that is wrong."""
    configure(LogFormat.CONSOLE, 0, node="")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger().setLevel(logging.ERROR)

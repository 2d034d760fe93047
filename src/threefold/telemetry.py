"""Facts turn into log lines: readable on a terminal, JSON for machines, always on stderr.

stdout belongs to the command's answer. A line names what happened in past tense (``segment written``) and carries
facts as fields; secrets never get there, because references are what settings hold (settings.py). What our parts and
the libraries say through `logging` comes out in the same form.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

from threefold.kernel.report import Level

_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
)


def configure(*, quiet: bool = False, verbose: bool = False, pretty: bool | None = None) -> None:
    """Once per process. ``pretty``: None asks THREEFOLD_LOG (``pretty``, ``json``), then whether a person watches."""
    wanted = os.environ.get("THREEFOLD_LOG", "")
    on_terminal = pretty if pretty is not None else wanted == "pretty" or (sys.stderr.isatty() and wanted != "json")
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if on_terminal else "iso", utc=not on_terminal)
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, pad_level=False, sort_keys=False)
        if on_terminal
        else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, stamp],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    structlog.configure(
        processors=[*_SHARED, stamp, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def report(event: str, *, level: Level = "info", **facts: Any) -> None:
    """The log's `Report` (kernel/report.py)."""
    structlog.get_logger("threefold").log(logging.getLevelName(level.upper()), event, **facts)

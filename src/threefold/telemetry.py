"""Facts turn into log lines: readable on a terminal, JSON for machines, always on stderr.

stdout belongs to the command's answer. A line names what happened in past tense (``segment written``), and carries
facts as fields; secrets never get there, because references are what settings hold (settings.py).
"""

from __future__ import annotations

import logging
import sys

import structlog


def configure(*, quiet: bool = False, verbose: bool = False, pretty: bool | None = None) -> None:
    """Once per process. ``pretty``: None asks whether stderr is a terminal."""
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    on_terminal = sys.stderr.isatty() if pretty is None else pretty
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=32, sort_keys=False)
        if on_terminal
        else structlog.processors.JSONRenderer()
    )
    stamp = "%H:%M:%S" if on_terminal else "iso"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt=stamp, utc=not on_terminal),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )

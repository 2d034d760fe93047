"""What happened, told to whoever keeps the log: an event in a few words, and its facts as fields."""

from __future__ import annotations

from typing import Any, Literal, Protocol

Level = Literal["info", "warning", "error"]


class Report(Protocol):
    """``report("segment written", number=7)``. ERROR means that a person has to look (docs: error handling)."""

    def __call__(self, event: str, *, level: Level = "info", **facts: Any) -> None: ...


def unheard(event: str, *, level: Level = "info", **facts: Any) -> None:
    """For callers that keep no log."""

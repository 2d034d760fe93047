"""Who tells the story: the command line does, on a terminal, as plain lines, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Picture:
    """How it stands, every half second."""

    acked: int = 0  # changes acknowledged so far
    per_second: Sequence[int] = ()  # lately, the newest last
    p50_ms: float = 0.0
    p99_ms: float = 0.0  # of the last seconds
    processes: Mapping[str, str] = field(default_factory=dict)  # name → running, stopped, gone, ...
    missing: Mapping[str, int] = field(default_factory=dict)  # store → objects to be filled in


class Narrator(Protocol):
    def act(self, number: int, title: str, why: str) -> None:
        """A new act begins; ``why`` is what to watch for."""
        ...

    def say(self, text: str, **facts: Any) -> None:
        """Something happened; ``facts`` are for machines."""
        ...

    def doing(self, text: str) -> None:
        """Something takes a while."""
        ...

    def picture(self, picture: Picture) -> None: ...

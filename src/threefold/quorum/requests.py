"""What the pure parts of the quorum log ask of the world, and how they hear back.

Two shapes, both free of I/O, time and chance:

- A *procedure* (claim, take-over, reading) is a generator. It yields an `Ask` (requests to perform at once, and
  when enough of them are answered) or a `Pause`, and is sent the answers. It reads as the protocol's text does.
- The *appender* (appender.py) is a state machine, because there the answers of many slots come in any order.

driver.py performs both against real stores; tests/simulation performs both in a simulated world.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from threefold.stores.store import Gone, Locked, Made, Page, Unknown

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Create:
    """Answered by Made | Unknown."""

    store: str
    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """Answered by bytes | Gone | Unknown; ``length`` asks for the first bytes only."""

    store: str
    key: str
    length: int | None = None


@dataclass(frozen=True, slots=True)
class List:
    """Answered by Page | Unknown. A hint only (invariant 2)."""

    store: str
    prefix: str
    after: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Answered by None | Locked | Unknown."""

    store: str
    keys: tuple[str, ...]


Request = Create | Read | List | Delete
Answer = Made | Gone | bytes | Page | Locked | Unknown | None
Answers = Mapping[int, Answer]  # by the request's place in Ask.requests; what is missing has not answered yet


def _all_answered(_: Answers) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Ask:
    """Perform the requests side by side; come back when ``enough`` of the answers so far, or all are answered.

    Each request answers in bounded time (its time-out is Unknown). Those still under way ``grace`` seconds after
    ``enough`` was met are left alone: they may land later or never.
    """

    requests: tuple[Request, ...]
    enough: Callable[[Answers], bool] = _all_answered
    grace: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before asking again; ``seconds`` is a mean, the driver adds jitter."""

    seconds: float


Step = Ask | Pause
Procedure = Generator[Step, Any, T]

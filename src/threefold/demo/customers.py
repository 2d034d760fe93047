"""Customers at their devices, asking while the site burns; and a ledger of what each was told.

Each asks one question after the other, as the page does: with a key of its own, and when no answer comes, or "try
later", the same question again under the same key. *Filed* is 201; *taken* is 202: it stands on two stores, and is
filed when a database takes writes again. Between two questions each looks at its own cases.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from threefold.demo.visitor import Answer, Visitor
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable

FILED: Final = 201
TAKEN: Final = 202
_SEEN: Final = 200
_TOO_MANY: Final = 429
_TRY_LATER_FROM: Final = 500
_PAUSE_S: Final = 0.4
_AGAIN_S: Final = 0.3


@dataclass(slots=True)
class Question:
    """One question, and what was said to it. Times are the monotonic clock's."""

    who: str
    number: int
    asked: float
    told: int = 0  # FILED or TAKEN; 0: no promise yet
    told_at: float = 0.0
    refusals: int = 0  # "try later", or no answer at all

    @property
    def subject(self) -> str:
        return f"Question {self.number} of {self.who}"


@dataclass(slots=True)
class Look:
    """At one's own cases: whether they were shown, and how old what was shown said to be."""

    at: float
    shown: bool
    age: str = ""
    why: str = ""  # what came instead


@dataclass(slots=True)
class Told:
    """Everything that customers were told."""

    questions: list[Question] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def since(self, moment: float) -> Told:
        return Told(
            [each for each in self.questions if each.told_at >= moment or each.told == 0],
            [each for each in self.looks if each.at >= moment],
        )

    def count(self, told: int) -> int:
        return sum(each.told == told for each in self.questions)

    def longest_wait(self) -> float:
        """Seconds from a question to the promise, the longest."""
        return max((each.told_at - each.asked for each in self.questions if each.told), default=0.0)

    def first(self, told: int, after: float) -> float | None:
        """When the first such answer came to a question that was asked after that moment."""
        found = [each.told_at for each in self.questions if each.told == told and each.asked >= after]
        return min(found, default=None)


class Customers:
    """Several of them, each on a thread of its own for as long as a request lasts."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.told = Told()
        self._url = url
        self._clock = clock
        self._stop = asyncio.Event()
        self._working: list[asyncio.Task[None]] = []

    async def come(self, name: str, link: str) -> None:
        """By the invitation in ``link``; from then on the customer asks."""
        visitor = Visitor(self._url, self._clock)
        await asyncio.to_thread(visitor.enrol, link, f"{name}'s telephone")
        self._working.append(asyncio.create_task(self._work(name, visitor)))

    async def go(self) -> None:
        """Each is told about the last question first; a failure of one is raised."""
        self._stop.set()
        await asyncio.gather(*self._working)

    def cancel(self) -> None:
        for task in self._working:
            task.cancel()

    async def _work(self, name: str, visitor: Visitor) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            question = Question(name, number, self._clock.monotonic())
            self.told.questions.append(question)
            await self._ask(visitor, question)
            await self._look(visitor)
            await self._clock.sleep(_PAUSE_S)

    async def _ask(self, visitor: Visitor, question: Question) -> None:
        sent = {"subject": question.subject, "body": "It does not work any more, what shall I do?"}
        key = secrets.token_urlsafe(16)
        while True:
            answer = await self._send(partial(visitor.send, "POST", "/api/v1/queries", sent, key=key))
            if answer is not None and answer.status in {FILED, TAKEN}:
                question.told, question.told_at = answer.status, self._clock.monotonic()
                return
            if answer is not None and answer.status < _TRY_LATER_FROM and answer.status != _TOO_MANY:
                raise Unavailable(f"the CRM answered a question with {answer.status}: {answer.body[:300]!r}")
            question.refusals += 1
            await self._clock.sleep(_AGAIN_S)

    async def _look(self, visitor: Visitor) -> None:
        at = self._clock.monotonic()
        answer = await self._send(partial(visitor.send, "GET", "/api/v1/queries?limit=5"))
        shown = answer is not None and answer.status == _SEEN
        age = answer.headers.get("threefold-age", "") if answer is not None else ""
        why = "no answer" if answer is None else f"{answer.status}: {answer.body[:200]!r}"
        self.told.looks.append(Look(at, shown, age, "" if shown else why))

    async def _send(self, ask: Any) -> Answer | None:
        try:
            answer: Answer = await asyncio.to_thread(ask)
        except Unavailable:
            return None
        return answer

"""Reading an immutable object from whichever of the stores gives it soonest, and only if it is what was written.

The store that has been fastest lately (per byte, and with the fewest reads under way) is asked first. When it takes
three times as long as such a read should, the next one is asked as well and the first good answer wins: a store that
stalls in mid-download is overtaken. That costs at most one request in twenty more, and a few when a store stalls: where
all stores are slow, asking twice would make them slower. An error, an absence or a copy that does not verify turns to
the next at once.

All stores having answered: every copy absent is NotThere, damaged copies are Damaged, and with one store unknown it is
asked again until patience ends: Unavailable (invariant 7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Final, TypeVar

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, NotThere, OtherKey, Unavailable
from threefold.stores.store import Gone, ObjectStore, Unknown

T = TypeVar("T")

_HEDGE_SECONDS: Final = (0.2, 10.0)
_HEDGE_FACTOR: Final = 3.0
_HEDGE_SHARE: Final = 0.05
_HEDGES_SAVED: Final = 16.0  # all reads that are under way to a store at the moment when it stalls
_FIXED_BYTES: Final = 256 * 1024  # what a request costs before its first byte, put as bytes
_FIRST_GUESS: Final = 0.5 / (1024 * 1024)  # seconds a byte, before anything was measured
_SMOOTHING: Final = 0.3
_PATIENCE_SECONDS: Final = 60.0


class _Hedges:
    """How many requests may be asked twice: a share of all reads, and a few saved up for when a store stalls."""

    def __init__(self) -> None:
        self._saved = _HEDGES_SAVED

    def earn(self) -> None:
        """A read begins."""
        self._saved = min(self._saved + _HEDGE_SHARE, _HEDGES_SAVED)

    def spend(self) -> bool:
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class Reader:
    """Reads with verification. ``note`` takes a sentence for the user, each one once."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        clock: Clock,
        note: Callable[[str], None],
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._stores = stores
        self._clock = clock
        self._note = note
        self._patience_seconds = patience_seconds
        self._measured_rate: dict[str, float] = {}  # seconds a byte
        self._under_way = dict.fromkeys(stores, 0)
        self._said: set[str] = set()
        self._hedges = _Hedges()
        self.bytes_from = dict.fromkeys(stores, 0)

    async def read(
        self,
        key: str,
        accept: Callable[[bytes], Awaitable[T]],
        *,
        start: int = 0,
        length: int | None = None,
        expected_bytes: int | None = None,
    ) -> T:
        """What ``accept`` makes of the bytes; it raises Damaged for bytes that are not what was written."""
        size = _FIXED_BYTES + (length if length is not None else expected_bytes or 0)
        give_up_at = self._clock.monotonic() + self._patience_seconds
        pause = 0.2
        while True:
            answers: dict[str, Gone | Unknown | Damaged] = {}
            found = await self._round(key, accept, start, length, size, answers)
            if found is not None:
                for name, answer in answers.items():
                    self._tell(key, name, answer)
                return found[0]
            unknown = {name: answer for name, answer in answers.items() if isinstance(answer, Unknown)}
            if not unknown:
                raise _none_left(key, answers)
            if self._clock.monotonic() + pause > give_up_at:
                why = "; ".join(f"{name}: {answer.reason}" for name, answer in sorted(unknown.items()))
                raise Unavailable(
                    f"{key} cannot be read now ({why})", hint="when a store is back, run the command again"
                )
            await self._clock.sleep(pause * (0.5 + self._clock.random()))
            pause *= 2

    async def _round(
        self,
        key: str,
        accept: Callable[[bytes], Awaitable[T]],
        start: int,
        length: int | None,
        size: int,
        answers: dict[str, Gone | Unknown | Damaged],
    ) -> tuple[T] | None:
        waiting = sorted(self._stores, key=lambda name: self._rate(name) * (1 + self._under_way[name]))
        asked: dict[asyncio.Task[tuple[T] | Gone | Unknown | Damaged], str] = {}
        order: list[str] = []
        hedge = wait = self._hedge_seconds(size)
        self._hedges.earn()
        ask_another = True
        try:
            while waiting or asked:
                if waiting and (ask_another or not asked):
                    name = waiting.pop(0)
                    task = asyncio.create_task(self._ask(name, key, accept, start, length, size))
                    asked[task] = name
                    order.append(name)
                    self._under_way[name] += 1
                    task.add_done_callback(partial(self._no_longer_under_way, name))
                done, _ = await asyncio.wait(
                    asked, timeout=wait if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                # A bad answer turns to the next store at once. For none, the budget has to allow it, or long waiting.
                ask_another = bool(done) or wait >= _HEDGE_SECONDS[1] or self._hedges.spend()
                wait = hedge if ask_another else _HEDGE_SECONDS[1]
                for task in done:
                    name, answer = asked.pop(task), task.result()
                    if isinstance(answer, tuple):
                        before = order[: order.index(name)]
                        self._overtaken([slow for slow in asked.values() if slow in before], size, hedge)
                        return answer
                    answers[name] = answer
            return None
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _ask(
        self,
        name: str,
        key: str,
        accept: Callable[[bytes], Awaitable[T]],
        start: int,
        length: int | None,
        size: int,
    ) -> tuple[T] | Gone | Unknown | Damaged:
        began = self._clock.monotonic()
        answer = await self._stores[name].read(key, start=start, length=length)
        if isinstance(answer, Unknown):
            self._measured_rate[name] = 4 * self._rate(name)
        if not isinstance(answer, bytes):
            return answer
        self._measured(name, (self._clock.monotonic() - began) / size)
        try:
            accepted = await accept(answer)
        except Damaged as damaged:
            return damaged
        self.bytes_from[name] += len(answer)
        return (accepted,)

    def _no_longer_under_way(self, name: str, _: object) -> None:
        self._under_way[name] -= 1

    def _measured(self, name: str, seconds_a_byte: float) -> None:
        before = self._measured_rate.get(name, seconds_a_byte)
        self._measured_rate[name] = before + _SMOOTHING * (seconds_a_byte - before)

    def _rate(self, name: str) -> float:
        """A store that was not read from yet is taken to be as good as the best, so that it gets its share."""
        return self._measured_rate.get(name, self._best_rate())

    def _best_rate(self) -> float:
        return min(self._measured_rate.values(), default=_FIRST_GUESS)

    def _hedge_seconds(self, size: int) -> float:
        least, most = _HEDGE_SECONDS
        return min(max(_HEDGE_FACTOR * size * self._best_rate(), least), most)

    def _overtaken(self, names: Iterable[str], size: int, hedge: float) -> None:
        for name in names:
            self._measured(name, 2 * hedge / size)
            self._once(f"{name} is slow: the other stores' copies are read instead")

    def _tell(self, key: str, name: str, answer: Gone | Unknown | Damaged) -> None:
        if isinstance(answer, Damaged):
            self._once(f"{key} is damaged on {name}: another store's copy is used")
        elif isinstance(answer, Gone):
            self._once(f"{name} lacks some objects, {key} first: other stores' copies are used", about=f"{name} lacks")
        else:
            self._once(
                f"{name} did not give {key} ({answer.reason}): other stores' copies are used", about=f"{name} unknown"
            )

    def _once(self, sentence: str, *, about: str | None = None) -> None:
        if (about or sentence) not in self._said:
            self._said.add(about or sentence)
            self._note(sentence)


def _none_left(key: str, answers: Mapping[str, Gone | Unknown | Damaged]) -> Damaged | NotThere:
    damaged = sorted(name for name, answer in answers.items() if isinstance(answer, Damaged))
    absent = sorted(name for name, answer in answers.items() if isinstance(answer, Gone))
    hint = "use an earlier snapshot, or the copy of a store that was not asked"
    if not damaged:
        return NotThere(f"{key} is not there, on {', '.join(absent)}", hint=hint)
    others = {answer.key_id for answer in answers.values() if isinstance(answer, OtherKey)}
    if len(others) == 1 and all(isinstance(answer, OtherKey | Gone) for answer in answers.values()):
        return OtherKey(others.pop())
    also = f", and absent on {', '.join(absent)}" if absent else ""
    return Damaged(f"{key} is damaged on {', '.join(damaged)}{also}", hint=hint)

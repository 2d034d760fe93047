"""One site's PostgreSQL, watched from here: its host, its process, SQL, now and then a commit, and its disk.

What is asked, how often, and what it costs the one that is watched:

- *A knock* (knock.py) every second, twice a second while anything is amiss: a child of the postmaster that lives for a
  millisecond.
- *A query* twice a second, over a connection of its own that is kept. It touches no table. Who does not answer is not
  asked again over the same line: after `_CUT_S` a new one is made, and the old one is cut; unless it is still
  acknowledged, which proves that its host lives (sessions.py).
- *A commit*, every `write_period_s`, over a second connection, and only where `may_write` says so: on the server
  that the DRaaS server streams from, never on one that returned from the dead. It is a logical message of no bytes
  (invariant 10), waits as every commit waits, and is waited for without an end: only what it waits for is asked, so
  that "the stores do not answer" is told from "its disk does not".
- *The disk*, where its data folder is on this machine.

Everything is timed in attended time (attention.py), and silence is judged there and nowhere else.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psycopg

from threefold.failover.aspects import Aspect
from threefold.failover.knock import Door
from threefold.failover.reports import Condition, PrimarySeen, Seen, Waits
from threefold.failover.sessions import NoSession, Session, State
from threefold.kernel.clock import Clock

QUERY_S: Final = 0.5
KNOCK_S: Final = 1.0
KNOCK_AMISS_S: Final = 0.5
WRITE_S: Final = 10.0
_QUERY_PATIENCE_S: Final = 1.5
_HOST_PATIENCE_S: Final = 2.0
# A knock takes two round trips and every lost packet a second: a slow line must not pass for a stopped postmaster.
_PROCESS_PATIENCE_S: Final = 8.0
_WRITE_PATIENCE_S: Final = 3.0
_CUT_S: Final = 5.0
# Our keepalives go out every second.
_ACKNOWLEDGED_S: Final = 2.5
_KNOCKS_AT_ONCE: Final = 4
_DISK_S: Final = 5.0
_TICK_S: Final = 0.1
# Wait events of PostgreSQL ("The Statistics Collector", table of wait events).
_OF_THE_DISK: Final = frozenset({"IO"})
_OF_THE_STORES: Final = "SyncRep"


class Probe:
    """`run` works until it is cancelled, and raises nothing; `seen` is what there is to tell at any moment."""

    def __init__(
        self,
        dsn: str,
        clock: Clock,
        at: Callable[[], float],
        *,
        data_dir: Path | None = None,
        may_write: Callable[[State], bool] = lambda _: False,
        write_period_s: float = WRITE_S,
    ) -> None:
        self._dsn = dsn
        self._door = Door(dsn)
        self._clock = clock
        self._at = at
        self._data_dir = data_dir
        self._may_write = may_write
        self._write_period = write_period_s
        self._host = Aspect(_HOST_PATIENCE_S)
        self._process = Aspect(_PROCESS_PATIENCE_S, no_s=_HOST_PATIENCE_S)  # one reset and then silence is no refusal
        self._sql = Aspect(_QUERY_PATIENCE_S)
        self._write = Aspect(write_period_s + _WRITE_PATIENCE_S)
        self._condition = Condition.UNKNOWN
        self._state: State | None = None
        self._system_identifier: int | None = None
        self._answers = 0
        self._sql_ms: float | None = None
        self._writing_since: float | None = None
        self._waits = Waits.NOTHING
        self._disk: tuple[float, float] | None = None
        self._said: dict[str, str] = {}
        self._knocking: set[asyncio.Task[None]] = set()
        self._session: Session | None = None
        self._left: tuple[Session, asyncio.Task[State]] | None = None  # a line that did not answer, and is acknowledged
        self.expected: int | None = None  # the system identifier that it must have

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for loop in (self._knocks(), self._queries(), self._writes(), self._disks()):
                group.create_task(loop)

    def seen(self) -> PrimarySeen:
        self._hear_line()
        at = self._at()
        sql, write = self._sql.word(at), self._write.word(at)
        if self._writing_since is not None and at - self._writing_since > _WRITE_PATIENCE_S:
            write = Seen.SILENT
        elif write is Seen.SILENT:
            write = Seen.UNKNOWN  # no commit is under way: it is not tried, or not any more
        state = self._state
        return PrimarySeen(
            host=self._host.word(at),
            process=self._process.word(at),
            sql=sql,
            write=write,
            host_age_s=self._host.ok_age(at),
            sql_age_s=self._sql.ok_age(at),
            write_age_s=self._write.ok_age(at),
            sql_ms=self._sql_ms,
            answers=self._answers,
            condition=self._condition if sql in {Seen.OK, Seen.REFUSED} else Condition.UNKNOWN,
            waits=self._waits if write is Seen.SILENT else Waits.NOTHING,
            disk_free=self._disk[0] if self._disk else None,
            disk_size=self._disk[1] if self._disk else None,
            timeline=state.timeline if state is not None else None,
            system_identifier=self._system_identifier,
            detail="; ".join(dict.fromkeys(said for said in self._said.values() if said)),
        )

    # --- the door ---

    async def _knocks(self) -> None:
        try:
            while True:
                self._knock_now()
                await self._clock.sleep(KNOCK_S if self._well() else KNOCK_AMISS_S)
        finally:
            for task in self._knocking:
                task.cancel()

    def _knock_now(self) -> None:
        if len(self._knocking) < _KNOCKS_AT_ONCE:
            task = asyncio.create_task(self._knock())
            self._knocking.add(task)
            task.add_done_callback(self._knocking.discard)

    async def _knock(self) -> None:
        started = self._at()
        self._host.ask(started)
        self._process.ask(started)

        def opened() -> None:
            self._host.answer(Seen.OK, started=started, at=self._at())

        task = asyncio.create_task(self._door.knock(opened))
        if not await self._within(task, _CUT_S, started, end=task.cancel):
            return
        knock, at = task.result(), self._at()
        self._host.answer(knock.host, started=started, at=at)
        self._process.answer(knock.process, started=started, at=at)
        self._said["door"] = knock.detail

    def _well(self) -> bool:
        at = self._at()
        return self._sql.word(at) is Seen.OK and self._process.word(at) is Seen.OK

    # --- SQL ---

    async def _queries(self) -> None:
        try:
            while True:
                try:
                    await self._query()
                except NoSession as error:
                    at = self._at()
                    refused = error.condition is not Condition.UNKNOWN
                    self._condition = error.condition
                    self._sql.answer(Seen.REFUSED if refused else Seen.FAILED, started=at, at=at)
                    self._said["sql"] = error.detail
                    self._knock_now()
                    await self._end()
                    await self._kept_out()
                await self._drop_left()
                await self._clock.sleep(QUERY_S)
        finally:
            await self._end()
            await self._drop_left(anyway=True)

    async def _query(self) -> None:
        """One answer over the line that there is, or a new line; or none in time. Raises NoSession."""
        started = self._at()
        began = self._clock.monotonic()
        self._sql.ask(started)
        if self._session is None:
            opening = asyncio.create_task(Session.open(self._dsn, self._door))
            if not await self._within(opening, _CUT_S, started, end=opening.cancel):
                return
            self._session = opening.result()
        session = self._session
        asking = asyncio.create_task(session.state())

        def leave() -> None:
            age = session.acknowledged_s()
            if age is not None and age <= _ACKNOWLEDGED_S and self._left is None:
                self._left, self._session = (session, asking), None
            else:
                session.cut()

        if await self._within(asking, _CUT_S, started, end=leave):
            self._answered(session, asking.result(), started, began)
        elif self._session is session:
            await self._end()

    async def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _drop_left(self, *, anyway: bool = False) -> None:
        """The line that was left serves as its host's witness until it breaks; answered after all, it is used again."""
        if self._left is None:
            return
        session, asking = self._left
        age = session.acknowledged_s()
        lives = age is not None and age <= 2 * _ACKNOWLEDGED_S
        if lives and not asking.done() and self._session is None and not anyway:
            return
        self._left = None
        if asking.done() and not asking.cancelled() and asking.exception() is None and self._session is None:
            self._session = session
            return
        session.cut()
        await asyncio.wait({asking}, timeout=_TICK_S)
        _heard(asking)
        await session.close()

    def _hear_line(self) -> None:
        """What the kernel at the other end of our line acknowledged is an answer of its host."""
        session = self._left[0] if self._left is not None else self._session
        age = session.acknowledged_s() if session is not None else None
        if age is not None and age <= _ACKNOWLEDGED_S:
            at = self._at() - age
            self._host.answer(Seen.OK, started=at, at=at)

    async def _kept_out(self) -> None:
        """Whom it does not let in would fill its log by asking twice a second: ask seldom, while it is there."""
        times = {Condition.FULL: 1, Condition.SHUT_TO_US: 30}.get(self._condition, 0)
        for _ in range(times):
            await self._clock.sleep(1.0)
            at = self._at()
            if self._process.word(at) is not Seen.OK:
                return
            self._sql.answer(Seen.REFUSED, started=at, at=at)

    def _answered(self, session: Session, state: State, started: float, began: float) -> None:
        at = self._at()
        self._system_identifier, self._state = session.system_identifier, state
        self._said["sql"] = ""
        known = session.system_identifier
        if self.expected is not None and known is not None and known != self.expected:
            self._condition = Condition.FOREIGN
            self._sql.answer(Seen.REFUSED, started=started, at=at)
            return
        self._condition = Condition.STANDBY if state.standby else Condition.SERVING
        self._answers += 1
        self._sql_ms = round((self._clock.monotonic() - began) * 1000, 1)
        self._sql.answer(Seen.OK, started=started, at=at)

    # --- a commit ---

    async def _writes(self) -> None:
        while self._write_period > 0:
            await self._clock.sleep(min(1.0, self._write_period))
            if not self._writable():
                continue
            try:
                await self._commits()
            except NoSession:
                continue

    def _writable(self) -> bool:
        state, well = self._state, self._sql.word(self._at()) is Seen.OK and self._condition is Condition.SERVING
        return well and state is not None and self._may_write(state)

    async def _commits(self) -> None:
        """Over one connection, one after the other, while they may be made. Raises NoSession."""
        opening = asyncio.create_task(Session.open(self._dsn, self._door))
        if not await self._within(opening, _CUT_S, self._at(), end=opening.cancel):
            return
        session = opening.result()
        try:
            while self._writable():
                await self._commit(session)
                await self._clock.sleep(self._write_period)
        finally:
            self._writing_since, self._waits = None, Waits.NOTHING
            await session.close()

    async def _commit(self, session: Session) -> None:
        started = self._writing_since = self._at()
        self._write.ask(started)
        task = asyncio.create_task(session.write())
        try:
            while not (await asyncio.wait({task}, timeout=1.0))[0]:
                if self._at() - started > _WRITE_PATIENCE_S / 2:
                    self._waits = await self._waiting_for(session.pid)
            await task
            self._write.answer(Seen.OK, started=started, at=self._at())
            self._said["write"] = ""
        except psycopg.Error as error:
            self._write.answer(Seen.FAILED, started=started, at=self._at())
            self._said["write"] = f"a commit failed: {error.diag.message_primary or type(error).__name__}"
            raise NoSession(Condition.UNKNOWN, "") from None
        finally:
            self._writing_since = None
            if not task.done():
                session.cut()
                await asyncio.gather(task, return_exceptions=True)

    async def _waiting_for(self, pid: int) -> Waits:
        """Asked over a line of its own for this once: the other one's query may be under way."""
        opening = asyncio.create_task(Session.open(self._dsn, self._door))
        try:
            if not await self._within(opening, _CUT_S, self._at(), end=opening.cancel):
                return self._waits
            session = opening.result()
            asking = asyncio.create_task(session.wait_of(pid))
            found = asking.result() if await self._within(asking, _CUT_S, self._at(), end=session.cut) else ("", "")
            await session.close()
        except NoSession:
            return self._waits
        kind, event = found
        if event == _OF_THE_STORES:
            return Waits.STORES
        if kind in {"", "Client"}:
            return Waits.NOTHING  # it works on it, or the answer is on its way
        return Waits.DISK if kind in _OF_THE_DISK or "WAL" in event else Waits.OTHER

    # --- the disk ---

    async def _disks(self) -> None:
        while self._data_dir is not None:
            with suppress(OSError):
                self._disk = await asyncio.to_thread(_disk, self._data_dir)  # one at a time: a dead disk hangs it
            await self._clock.sleep(_DISK_S)

    async def _within(
        self, task: asyncio.Task[Any], seconds: float, started: float, *, end: Callable[[], object]
    ) -> bool:
        """Whether it was over within so many attended seconds; if not, ``end`` was called. It may have failed."""
        try:
            while not task.done() and self._at() - started <= seconds:
                await asyncio.wait({task}, timeout=_TICK_S)
            if task.done():
                return True
        finally:
            if not task.done():
                end()
                await asyncio.wait({task}, timeout=_TICK_S)
                _heard(task)
        return False


def _heard(task: asyncio.Task[Any]) -> None:
    """Nobody asks for this one's result any more."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


def _disk(data_dir: Path) -> tuple[float, float]:
    """(free, size) of the fuller one of where the data and where the WAL lies. Raises OSError."""
    places = [shutil.disk_usage(data_dir)]
    with suppress(OSError):
        places.append(shutil.disk_usage(data_dir / "pg_wal"))  # often a disk of its own
    fullest = min(places, key=lambda place: place.free)
    return float(fullest.free), float(fullest.total)

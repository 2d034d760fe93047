"""While fewer than two stores answer: WAL goes to the spool, is confirmed from there, and drains when stores return.

The exception to invariant 1, chosen by [failover] without_quorum = "spool". In this order, so that nobody is told
less than the truth: the bytes are on our disk; the declaration ("changes from LSN x on may be missing") is on every
store that answers, or, where none does, in the spool, and on the stores as soon as they do; then the primary is told.

The appender knows nothing of it. What it has taken stays with it; everything that follows lies in the spool and is fed
to it from there, in order, as fast as it settles, so memory is bounded. When it has caught up, new bytes go to it
directly again, and when it has settled the spool's last byte, the closing record says so and the file goes.

A process that dies leaves the spool. The next leader, if the log still ends within it, on its timeline, under the
same switch, and if the primary has the same bytes at its end, goes on where it ends. A spool that does not fit is set
aside and reported: whatever took its place has been acknowledged by two stores since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from threefold.kernel.clock import Clock
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.report import Report
from threefold.protect.spool import Spool
from threefold.quorum import degraded
from threefold.quorum.appender import Appender
from threefold.quorum.degraded import Declaration
from threefold.quorum.driver import LogWriter
from threefold.stores.soon import answers_soon
from threefold.stores.store import Made, ObjectStore

# Nothing settled for that long, though something waits: fewer than two stores answer.
STALLED_S: Final = 4.0
_FRAME_BYTES: Final = 1024 * 1024
# So much is given to the appender ahead of what it settles.
_AHEAD_BYTES: Final = 4 * 1024 * 1024
_POLL_S: Final = 0.2
_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class SpoolPlace:
    """Where the spool lies, and how large it may grow."""

    path: Path
    max_bytes: int


class Spooling:
    """One for as long as a site is led for; leaders come and go."""

    def __init__(
        self,
        place: SpoolPlace,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        report: Report,
        host: str,
        switch: int,
    ) -> None:
        self._place = place
        self._stores = stores
        self._keyring = keyring
        self._clock = clock
        self._report = report
        self._host = host
        self._switch = switch
        self._lock = asyncio.Lock()
        self._declared: set[str] = set()
        self._over: dict[Path, Declaration] = {}  # drained, and the stores are still to be told
        for path in place.path.parent.glob(f"{place.path.name}.*{degraded.DRAINED}"):
            if (left := Spool.found(path)) is not None:
                left.close()
                self._over[path] = replace(left.declaration, end=left.end)
        self._full = False
        self.spool = Spool.found(place.path)
        self._settled: Callable[[], Lsn] = lambda: Lsn(0)  # by the leader that is at work
        self.active = False  # new bytes go to the spool
        self.taken = Lsn(0)  # the end of all that was given to it
        self.kept: Lsn | None = None  # may be confirmed: on our disk, and declared

    # --- a leader begins ---

    def fits(self, log: int, timeline: int, at: Lsn) -> Spool | None:
        """The spool that was found, where a log that ends at ``at`` goes on in it, or has gone on beyond it."""
        spool = self.spool
        if spool is None or (spool.log, spool.declaration.timeline) != (log, timeline):
            return None
        return spool if spool.declaration.switch == self._switch and spool.start <= at else None

    def adopt(self, appender: Appender, *, fits: bool) -> None:
        """Go on with the spool that was found; ``fits``: the checks of the candidate say so."""
        self.active, self.kept = False, None
        self._settled = lambda: appender.settled
        spool = self.spool
        if spool is None:
            return
        if not fits:
            self.spool = None
            aside = spool.set_aside(self._clock.new_id()[:8])
            self._report(
                "the spool does not fit the log any more and was set aside: what it holds was confirmed and is lost",
                level="error",
                file=str(aside),
                start=str(spool.start),
                end=str(spool.end),
            )
            return
        self.active = appender.received < spool.end
        self.taken = self.kept = spool.end
        self._report("draining the spool", at=str(appender.received), end=str(spool.end))

    # --- the stream's side ---

    async def begin(self, log: int, epoch: int, timeline: int, appender: Appender) -> None:
        """From here on bytes go to the spool: first those that are not settled."""
        settled, wal = appender.settled, appender.unsettled_wal()
        spool, self.active = self.spool, True
        if spool is not None and spool.end <= settled:
            self._retire(spool)
            spool = None
        elif spool is not None:  # it has not been drained to its end
            wal = wal[spool.end - settled :]
        self.taken = Lsn((spool.end if spool else settled) + len(wal))
        async with self._lock:
            if spool is None:
                at = self._clock.now().isoformat(timespec="seconds")
                declaration = Declaration(epoch, timeline, settled, at, self._host, self._switch)
                spool = self.spool = await asyncio.to_thread(Spool.begin, self._place.path, log, declaration)
                self._declared = set()
            rest = await self._put(spool, wal)
            await self._declare()
            self.kept = spool.end
            if rest:
                self._end(spool)
        self._report(
            "RPO > 0: too few stores answer, commits are kept on this disk alone",
            level="error",
            start=str(spool.start),
            file=str(spool.path),
            declared_on=", ".join(sorted(self._declared)) or "no store yet",
        )

    async def keep(self, data: bytes) -> bytes:
        """Returns when they may be confirmed: what the spool had no room for, and the log, being as far, can take."""
        self.taken = Lsn(self.taken + len(data))
        async with self._lock:
            spool = self.spool
            if spool is None:
                raise RuntimeError("the spool was closed with bytes on their way to it")
            rest = await self._put(spool, data)
            self.kept = spool.end
            if rest:
                self._end(spool)
        return rest

    def _end(self, spool: Spool) -> None:
        """It is full, and drained to its end: a spool gets no smaller, so what follows goes to the log directly."""
        self.active, self.taken, self._full = False, spool.end, False
        self._retire(spool)

    async def _put(self, spool: Spool, data: bytes) -> bytes:
        """Append; what is left when the spool is full and the log has settled all of it."""
        for at in range(0, len(data), _FRAME_BYTES):
            piece = data[at : at + _FRAME_BYTES]
            while True:
                if spool.size + len(piece) <= self._place.max_bytes:
                    try:
                        await _uncancelled(asyncio.to_thread(spool.append, spool.end, piece))
                    except OSError as error:
                        why = (error.strerror or "unknown reason").lower()
                    else:
                        break
                else:
                    why = "it holds as much as it may"
                if self._settled() >= spool.end > spool.start:
                    return data[at:]
                if not self._full:
                    self._full = True
                    self._report("the spool takes no more: commits wait", level="error", reason=why)
                await self._clock.sleep(_POLL_S)
        self._full = False
        return b""

    # --- beside the stream ---

    async def feed(self, writer: LogWriter, moving: Callable[[], bool]) -> None:
        """From the spool into the log, as long as its leader lives; ``moving``: it has just settled something."""
        appender = writer.appender
        while True:
            spool = self.spool
            if spool is None:
                await self._clock.sleep(_POLL_S)
                continue
            if appender.received < spool.end:
                await writer.room(_AHEAD_BYTES)
                writer.offer(await asyncio.to_thread(spool.read, appender.received))
                continue
            if self.active and appender.received == self.taken:
                near = appender.settled > spool.start and self.taken - appender.settled < _AHEAD_BYTES
                self.active = not (appender.settled == self.taken or (near and moving()))
            if not self.active and appender.settled >= spool.end:
                self._retire(spool)
            await self._clock.sleep(_POLL_S / 4)

    async def declare(self) -> None:
        """To the stores that did not hear it yet."""
        while True:
            await self._clock.sleep(_AGAIN_S)
            if self.spool is not None and len(self._declared) < len(self._stores):
                await self._declare()
            await self._tell_over()

    async def _declare(self) -> None:
        if self.spool is not None:
            self._declared |= await self._create(self.spool.declaration, set(self._stores) - self._declared)

    def _retire(self, spool: Spool) -> None:
        """The log has it all. At once, so that nothing can come in between; the stores are told by `declare`."""
        self.spool, self.kept = None, None
        self._over[spool.retire()] = replace(spool.declaration, end=spool.end)

    async def _tell_over(self) -> None:
        for path, over in list(self._over.items()):
            if await self._create(over, set(self._stores)):
                path.unlink()
                del self._over[path]
                self._report("the spool is drained: nothing is missing", start=str(over.start), end=str(over.end))

    async def _create(self, declaration: Declaration, on: set[str]) -> set[str]:
        if not on:
            return set()
        body = degraded.encode(declaration, self._keyring, bytes.fromhex(self._clock.new_id())[:NONCE_BYTES])
        answers = await answers_soon(
            {n: self._stores[n] for n in sorted(on)},
            lambda store: store.create(declaration.key, body),
            patiently=True,
        )
        return {name for name, answer in answers.items() if isinstance(answer, Made)}


async def _uncancelled(work: Coroutine[Any, Any, None]) -> None:
    """What a thread has begun it ends; nobody goes on before it has."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise

"""The copy at our site, whatever it is now: a standby that follows, the source of a planned switch, the active one.

One lock: what changes the server goes one after the other. Nothing here decides who is active; the journal does, and
the agent asks it before it comes here.
"""

from __future__ import annotations

import asyncio
from typing import Final

from threefold.failover.policy import Copy
from threefold.kernel.clock import Clock
from threefold.kernel.errors import NotThere, ThreefoldError, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.report import Report
from threefold.postgres.control import read_control
from threefold.postgres.server import Server
from threefold.postgres.wal import segment_name
from threefold.recover.standby import ForeignCopy, Position, Standby

_FEED_S: Final = 1.0
# A copy that has neither streamed nor been fed for that long cannot be said to be able to reach the log's end.
_STALE_S: Final = 30.0
_FRESH_S: Final = 5.0
_SURPLUS_MAX: Final = 64 * 2**20


class Keeper:
    """Holds the standby of one site."""

    def __init__(
        self,
        standby: Standby,
        clock: Clock,
        report: Report,
        *,
        rebuild: bool = False,
    ) -> None:
        """``rebuild``: a data folder that is not of the log's history may be made anew."""
        self._standby = standby
        self._clock = clock
        self._report = report
        self._rebuild = rebuild
        self._lock = asyncio.Lock()
        self._prepared = False
        self.had_copy = False  # once it was: whoever allowed it to be made of something else allowed it once
        self._following: str | None = None
        self._fed_at: float | None = None
        self._told = ""
        self.copy = Copy(ready=False, why="it is not prepared yet")
        self.position: Position | None = None
        self.working = ""  # what takes long just now

    @property
    def server(self) -> Server | None:
        """Of what lies in our data folder, a standby or not; None: nothing lies there."""
        try:
            return self._standby.server
        except NotThere:
            return None

    # --- while another site is active ---

    async def keep(self, follow: str | None) -> None:
        """One round: prepared, running, following ``follow``, fed where nothing streams. Raises Refused."""
        async with self._lock:
            try:
                await self._keep(follow)
            except Unavailable as error:
                self._not_ready(error)

    async def _keep(self, follow: str | None) -> None:
        server = await self._prepare()
        if server.pid is None:
            await self._standby.start(follow)
            self._following = follow
        elif follow != self._following:
            await self._standby.follow(follow)
            self._following = follow
        position = await self._standby.position()
        self.position = position
        now = self._clock.monotonic()
        if not position.streaming and (self._fed_at is None or now - self._fed_at > _FEED_S):
            await self._feed()
        if position.streaming:
            self._fed_at = now
        self.copy, self._told = Copy(ready=True), ""

    async def _prepare(self) -> Server:
        if not self._prepared:
            self.working = "preparing"
            try:
                done = await self._standby.prepare(rebuild=self._rebuild)
            finally:
                self.working = ""
            self._report("copy prepared", how=done.how, snapshot=done.snapshot, fetched=done.bytes_fetched)
            self._prepared, self._rebuild, self.had_copy = True, False, True
        return self._standby.server

    def failed(self, error: ThreefoldError) -> None:
        """The last thing that was tried with the copy did not work."""
        self.copy = Copy(ready=False, why=error.message)

    def _not_ready(self, error: ThreefoldError) -> None:
        if self._fed_at is None or self._clock.monotonic() - self._fed_at > _STALE_S:
            self.copy = Copy(ready=False, why=error.message)
        if error.message != self._told:
            self._told = error.message
            self._report("the copy does not keep up", level="warning", reason=error.message, hint=error.hint)

    # --- a switch to us ---

    async def ready(self) -> Standby:
        """A running standby that follows nobody. Raises Unavailable, Refused."""
        async with self._lock:
            server = await self._prepare()
            if server.pid is None:
                await self._standby.start(None)
                self._following = None
            await self._follow_nobody()
            if not self._is_fresh:
                await self._feed()
            return self._standby

    async def _feed(self) -> None:
        """Bring in what the log has; a copy of another history, or one that the log has left behind, is made anew."""
        try:
            await self._standby.feed()
        except (ForeignCopy, NotThere) as error:
            self._report("the copy is made anew", level="warning", reason=error.message)
            self.copy = Copy(ready=False, why=f"it is made anew: {error.message}")
            self._prepared, self._rebuild = False, True
            await self._prepare()
            await self._standby.start(self._following)
            await self._standby.feed()
        self._fed_at = self._clock.monotonic()

    @property
    def _is_fresh(self) -> bool:
        """Streaming, or fed, a moment ago: what the log has besides is little."""
        return self._fed_at is not None and self._clock.monotonic() - self._fed_at < _FRESH_S

    async def surplus(self, end: Lsn, timeline: int) -> bytes:
        """What the copy has received beyond ``end``, the log's end: our source confirmed none of it, and wrote it.

        The walreceiver is ended first, so that nothing more comes. A copy that is not ready yet has none.
        """
        if self._lock.locked() and self.working:
            return b""
        async with self._lock:
            server = self.server
            if server is None or server.pid is None or not self._prepared:
                return b""
            await self._follow_nobody()
            position = await self._standby.position()
            if position.primary:
                return b""
            have = max(position.received or position.replayed, position.replayed)
            if position.timeline != timeline or have <= end:
                return b""
            if have - end > _SURPLUS_MAX:
                raise Unavailable(f"the copy is {have - end} bytes ahead of the log: that is no race of two streams")
            return await asyncio.to_thread(_wal, server, timeline, end, Lsn(have))

    async def _follow_nobody(self) -> None:
        if self._following is not None:
            await self._standby.follow(None)
            self._following = None

    async def promoted(self) -> Standby:
        """Behind ``promoting``, whatever became of the server: it is started where it does not run."""
        async with self._lock:
            return self._standby

    # --- while we are active ---

    async def serve(self, *, start: bool) -> bool:
        """Whether our PostgreSQL runs; started (``start``) where it does not. A running one is never ended."""
        async with self._lock:
            self._prepared, self._following, self._fed_at, self.position = False, None, None, None
            server = self.server
            if server is None:
                return False
            if server.pid is None and start:
                self._report("starting the PostgreSQL that serves", level="warning", data_dir=str(server.data_dir))
                await server.start()
            return server.pid is not None

    # --- a planned switch away from us ---

    async def stop_source(self) -> Lsn:
        """Shut our PostgreSQL down cleanly: where its last checkpoint lies. Its WAL senders send everything before."""
        async with self._lock:
            server = self._standby.server
            await server.stop("fast", timeout=50)
            return (await read_control(server.binaries, server.data_dir)).checkpoint

    async def demoted(self) -> None:
        """Another site is active, and we stopped for it in good order: a standby again. Once is enough."""
        async with self._lock:
            server = self.server
            if self._prepared or server is None or server.pid is not None:
                return
            done = await self._standby.demote()
            self._report("the former primary follows", how=done.how, fetched=done.bytes_fetched)
            self._prepared = self.had_copy = True


def _wal(server: Server, timeline: int, start: Lsn, end: Lsn) -> bytes:
    """Bytes [start, end) of the copy's own pg_wal."""
    folder, found, at = server.data_dir / "pg_wal", bytearray(), int(start)
    size = next(path.stat().st_size for path in folder.iterdir() if len(path.name) == 24 and path.is_file())
    while at < end:
        number, offset = divmod(at, size)
        with (folder / segment_name(timeline, number, size)).open("rb") as file:
            file.seek(offset)
            part = file.read(min(size - offset, end - at))
        if not part:
            raise Unavailable(f"the copy's WAL ends at {Lsn(at)}, before {end}")
        found += part
        at += len(part)
    return bytes(found)

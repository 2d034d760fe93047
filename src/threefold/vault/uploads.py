"""Putting immutable objects on three stores, where two are enough to go on.

An object counts when it is on two stores. The third copy goes on in the background as long as memory lasts: at most
``in_memory`` bodies are held, and when the next one wants in, a copy that is behind is dropped and noted as missing,
for the repairer to fill in from the other two. So a slow or dead store holds back neither the snapshot nor memory.
A store that keeps up is not dropped for being last: it gets a quarter more of the time the other two needed, unless it
was dropped before and has not finished an object since.

An answer "unknown" is asked again, with the same bytes; "exists" counts when the bytes that stand there are ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, Unavailable
from threefold.stores.confirm import Stored, Taken, create_confirmed
from threefold.stores.store import ObjectStore

COPIES: Final = 2
IN_MEMORY: Final = 3
PATIENCE_SECONDS: Final = 120.0
_GRACE_SECONDS: Final = 3.0
_LAST_SHARE: Final = 0.25
_BACKOFF_SECONDS: Final = (0.1, 5.0)


class _Upload:
    """One object on its way."""

    def __init__(self, key: str, since: float) -> None:
        self.key = key
        self.since = since
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.counted_at: float | None = None


class Uploads:
    """``async with Uploads(...) as uploads: await uploads.put(...); await uploads.finish()``."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        clock: Clock,
        *,
        in_memory: int = IN_MEMORY,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._stores = stores
        self._clock = clock
        self._in_memory = in_memory
        self._patience_seconds = patience_seconds
        self._open: list[_Upload] = []
        self._behind: set[str] = set()
        self._changed = asyncio.Event()
        self.missing: dict[str, list[str]] = {}  # store → keys it lacks
        self.bytes = 0  # handed in

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for upload in self._open for task in upload.tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def put(self, key: str, body: bytes) -> None:
        """Take ``body``, as soon as there is room for it. Raises Unavailable when an earlier one cannot be placed."""
        await self._until(lambda: len(self._open) < self._in_memory)
        self.bytes += len(body)
        upload = _Upload(key, self._clock.monotonic())
        self._open.append(upload)
        for name, store in self._stores.items():
            upload.tasks[name] = asyncio.create_task(self._place(upload, name, store, body))

    async def settle(self) -> None:
        """Return when all that was put is on two stores."""
        await self._until(lambda: all(len(upload.done) >= COPIES for upload in self._open), drop=False)

    async def finish(self, *, grace_seconds: float = _GRACE_SECONDS) -> None:
        """Settle, and give the copies that are behind a little longer; what is not there then is noted as missing."""
        await self.settle()
        rest = [task for upload in self._open for name, task in upload.tasks.items() if name not in self._behind]
        if rest:
            await asyncio.wait(rest, timeout=grace_seconds)
        for upload in list(self._open):
            self._close(upload)

    async def _until(self, reached: Callable[[], bool], *, drop: bool = True) -> None:
        while True:
            self._changed.clear()
            for upload in list(self._open):
                self._judge(upload)
            if reached():
                return
            wait = self._drop_one() if drop else None
            if wait == 0:
                continue
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _judge(self, upload: _Upload) -> None:
        if len(upload.done) >= COPIES and upload.counted_at is None:
            upload.counted_at = self._clock.monotonic()
        if len(self._stores) - len(upload.failed) < COPIES:
            why = "; ".join(f"{name}: {reason}" for name, reason in sorted(upload.failed.items()))
            raise Unavailable(
                f"{upload.key} cannot be put on {COPIES} stores ({why})",
                hint="see `threefold check` for what the stores answer; what was uploaded is used by the next snapshot",
            )
        if upload.counted_at is not None and not upload.tasks:
            self._close(upload)

    def _drop_one(self) -> float | None:
        """Make room by giving up copies that are behind. Returns 0, or the seconds to wait, None for any change."""
        waits = []
        for upload in self._open:
            if upload.counted_at is None:
                continue
            allowed = 0.0
            if not upload.tasks.keys() <= self._behind:
                allowed = (upload.counted_at - upload.since) * _LAST_SHARE
            left = upload.counted_at + allowed - self._clock.monotonic()
            if left <= 0:
                self._close(upload)
                return 0.0
            waits.append(left)
        return min(waits, default=None)

    def _close(self, upload: _Upload) -> None:
        """Let go of the body; the copies that are not there are missing."""
        self._open.remove(upload)
        for name, task in upload.tasks.items():
            task.cancel()
            self._behind.add(name)
        for name in self._stores.keys() - upload.done:
            self.missing.setdefault(name, []).append(upload.key)

    async def _place(self, upload: _Upload, name: str, store: ObjectStore, body: bytes) -> None:
        try:
            await create_surely(store, upload.key, body, self._clock, patience_seconds=self._patience_seconds)
            upload.done.add(name)
            self._behind.discard(name)
        except (Unavailable, Damaged) as error:
            upload.failed[name] = error.message
        finally:
            upload.tasks.pop(name, None)
            self._changed.set()


async def create_surely(
    store: ObjectStore, key: str, body: bytes, clock: Clock, *, patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Create an object whose key nobody else uses, until the store says it is there.

    Raises Unavailable when it has not said so within ``patience_seconds``, Damaged when other bytes stand there.
    """
    give_up_at = clock.monotonic() + patience_seconds
    pause, longest = _BACKOFF_SECONDS
    while True:
        answer = await create_confirmed(store, key, body)
        if isinstance(answer, Stored):
            return
        if isinstance(answer, Taken):
            raise Damaged(f"{store.name} holds other bytes under {key}")
        if clock.monotonic() + pause > give_up_at:
            raise Unavailable(f"{store.name}: {answer.reason}")
        await clock.sleep(pause * (0.5 + clock.random()))
        pause = min(2 * pause, longest)

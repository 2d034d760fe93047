"""The server, broken on purpose, each time in one of its promises: a campaign that does not notice is worth nothing.

    python -m tests.torture.campaign --variant "answers before the journal" --seed 1

Each patches the server's own process (server.py). What is asked of a patch: that it breaks that one promise and
would pass any test that neither kills nor races.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tests.torture.cache import path_of


def _answers_before_the_journal() -> None:
    from threefold.storage_server.journal import Journal

    async def durable(self: Any, batch: int) -> None:
        if self.failure is not None:
            raise self.failure

    Journal.durable = durable  # type: ignore[method-assign]
    Journal.when_durable = lambda _self, _batch, hear: hear(None)  # type: ignore[method-assign]


def _answers_a_small_create_at_once() -> None:
    from threefold.storage_server.engine import Engine

    real = Engine.create_at_once

    def create_at_once(self: Any, bucket: str, key: str, body: bytes, sha256: bytes, hear: Any) -> bool:
        taken = real(self, bucket, key, body, sha256, lambda _failure: None)
        if taken:
            hear(None)
        return taken

    Engine.create_at_once = create_at_once  # type: ignore[method-assign]


def _does_not_sync(part: str, call: str = "fdatasync") -> Callable[[], None]:
    def breaks() -> None:
        real = getattr(os, call)

        def careless(fd: int) -> None:
            path = path_of(fd)
            if f"/{part}" not in path or (part == "objects" and os.path.isdir(path)):  # noqa: PTH112
                real(fd)

        setattr(os, call, careless)

    return breaks


def _does_not_sync_folders() -> None:
    from threefold.storage_server import blobs, disk, journal, journal_file, replay

    for module in (blobs, disk, journal, journal_file, replay):
        if hasattr(module, "sync_folder"):
            module.sync_folder = lambda _folder: None


def _reads_what_may_vanish() -> None:
    from threefold.storage_server.engine import Engine
    from threefold.storage_server.s3 import no_such_key

    async def find(self: Any, bucket: str, key: str) -> Any:
        entry = self.bucket(bucket).objects.get(key)
        if entry is None:
            raise no_such_key()
        return entry

    Engine.find = find  # type: ignore[method-assign]


def _refuses_for_what_may_vanish() -> None:
    from threefold.storage_server.engine import Engine
    from threefold.storage_server.s3 import precondition_failed

    real = Engine.admit

    async def admit(self: Any, bucket: str, key: str, condition: Any, size: int) -> None:
        before = self.bucket(bucket).objects.get(key)
        if before is not None and not condition.holds(before.etag):
            raise precondition_failed()
        await real(self, bucket, key, condition, size)

    Engine.admit = admit  # type: ignore[method-assign]


def _two_creates_may_win() -> None:
    """The decision and the append are not in one turn of the event loop."""
    import asyncio

    from threefold.storage_server.engine import Engine
    from threefold.storage_server.s3 import Condition

    real = Engine._commit

    async def commit(self: Any, bucket: str, key: str, entry: Any, kind: Any, body: bytes, condition: Any) -> None:
        await self.admit(bucket, key, condition, entry.size)
        await asyncio.sleep(0.001)
        await real(self, bucket, key, entry, kind, body, Condition())

    Engine._commit = commit  # type: ignore[method-assign]
    Engine.create_at_once = lambda *_: False  # type: ignore[method-assign]


def _forgets_that_a_lock_was_lengthened() -> None:
    from threefold.storage_server import replay
    from threefold.storage_server.records import Kind

    real = replay._apply

    def apply(catalog: Any, number: int, record: Any, damaged: Any) -> None:
        if record.kind != Kind.LOCK:
            real(catalog, number, record, damaged)

    replay._apply = apply


def _deletes_in_memory_only() -> None:
    from threefold.storage_server.engine import Engine
    from threefold.storage_server.s3 import S3Error

    real = Engine.delete

    async def delete(self: Any, bucket: str, key: str) -> None:
        before = self.bucket(bucket).objects.get(key)
        if before is None or len(key) % 2:
            await real(self, bucket, key)
            return
        try:
            if (checked := self._check_lock(before)) is not None:
                await checked
        except S3Error:
            await real(self, bucket, key)
            return
        self._catalog.delete(bucket, key, self.journal.newest_batch)
        await self.journal.durable(self.journal.newest_batch)

    Engine.delete = delete  # type: ignore[method-assign]


def _removes_the_file_before_the_journal_says_so() -> None:
    from threefold.storage_server.catalog import Catalog
    from threefold.storage_server.engine import Engine
    from threefold.storage_server.entries import INLINE

    real_init, real_put = Engine.__init__, Catalog.put

    def init(self: Any, *arguments: Any) -> None:
        real_init(self, *arguments)

        def put(catalog: Any, bucket: str, key: str, entry: Any) -> Any:
            before = real_put(catalog, bucket, key, entry)
            if before is not None and before.file_id != INLINE:
                self.blobs.path(before.file_id).unlink(missing_ok=True)
            return before

        Catalog.put = put  # type: ignore[method-assign]

    Engine.__init__ = init  # type: ignore[method-assign]


def _compaction_forgets_large_objects() -> None:
    from threefold.storage_server import compaction
    from threefold.storage_server.entries import INLINE

    real = compaction._move

    def move(journal: Any, catalog: Any, file: Any, bucket: str, key: str) -> int:
        entry = catalog.entry(bucket, key) if key else None
        return 0 if entry is not None and entry.file_id != INLINE else real(journal, catalog, file, bucket, key)

    compaction._move = move


def _removes_a_journal_file_before_it_is_done_with() -> None:
    from threefold.storage_server.journal import Journal, _remove
    from threefold.storage_server.records import Kind

    async def drop_before(self: Any, first: int) -> None:
        self.append(Kind.FIRST, first.to_bytes(8, "little"))
        gone = [self.files.pop(number).path for number in [number for number in self.files if number < first]]
        _remove(self._folder, gone)
        self._first = first

    Journal.drop_before = drop_before  # type: ignore[method-assign]


def _serves_a_last_batch_that_only_the_cache_has() -> None:
    from threefold.storage_server import replay

    replay._settle_end = lambda *_: None


VARIANTS: dict[str, Callable[[], None]] = {
    "answers before the journal": _answers_before_the_journal,
    "answers a small create at once": _answers_a_small_create_at_once,
    "does not sync the journal": _does_not_sync("journal"),
    "does not sync large objects": _does_not_sync("objects", "fsync"),
    "does not sync folders": _does_not_sync_folders,
    "reads what may vanish": _reads_what_may_vanish,
    "refuses for what may vanish": _refuses_for_what_may_vanish,
    "two creates may win": _two_creates_may_win,
    "forgets that a lock was lengthened": _forgets_that_a_lock_was_lengthened,
    "deletes in memory only": _deletes_in_memory_only,
    "removes the file before the journal says so": _removes_the_file_before_the_journal_says_so,
    "compaction forgets large objects": _compaction_forgets_large_objects,
    "removes a journal file before it is done with": _removes_a_journal_file_before_it_is_done_with,
    "serves a last batch that only the cache has": _serves_a_last_batch_that_only_the_cache_has,
}

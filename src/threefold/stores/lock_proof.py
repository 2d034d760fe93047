"""Whether a store keeps what is locked from the very credentials that the DRaaS server has: proved by trying.

A small object is created under a lock of a minute. Then what a thief would do: delete it for good, bring the end of its
lock nearer, write over it, delete it in the ordinary way. Each has to be refused, or must not change what was locked.

Two kinds of store keep the promise. One refuses (ours, a bucket without versions): what is locked stays readable. One
that keeps versions (AWS) refuses to delete the locked version, but takes an ordinary delete and puts a marker over it:
nothing is lost, and everything can be *hidden* until the markers are taken away. That is said as what it is.

The object stays behind for its minute; the next proof clears it away.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from threefold.kernel.clock import Clock
from threefold.stores.store import Locked, Made, ObjectStore, Page, Unknown

PERIOD: Final = timedelta(seconds=60)
_PREFIX: Final = "probe/locks"
_SHORT: Final = timedelta(seconds=2)
_BUCKET: Final = (
    "the bucket needs Object Lock, and the keys the rights to put and get an object's retention "
    "(docs/howto/lock-the-copies.md); or `lock = false` for this store"
)
_OTHER: Final = "locks on this store protect nothing: `lock = false` for it, and have the other two locked"


@dataclass(frozen=True, slots=True)
class LockProof:
    """``locked``: what is locked cannot be destroyed; ``hides``: but an ordinary delete takes it out of sight."""

    store: str
    locked: bool
    detail: str
    hint: str = ""
    hides: bool = False


async def prove_lock(store: ObjectStore, clock: Clock) -> LockProof:
    """Some ten requests. Does not raise for what a store does."""
    await _clear(store)
    key, body = f"{_PREFIX}/{clock.new_id()}", b"may not be deleted for a minute"
    until = clock.now() + PERIOD

    def failed(detail: str, hint: str = _OTHER) -> LockProof:
        return LockProof(store.name, locked=False, detail=detail, hint=hint)

    made = await store.create_locked(key, body, until)
    if made is not Made.CREATED:
        return failed(f"it takes no lock ({made.reason if isinstance(made, Unknown) else made.value})", _BUCKET)
    held = await store.locked_until(key)
    if not isinstance(held, datetime):
        return failed(
            f"it does not tell of a lock ({held.reason})"
            if isinstance(held, Unknown)
            else "it took the lock and has none",
            _BUCKET,
        )
    if held < until - _SHORT:
        return failed(f"its lock ends at {held:%H:%M:%S}, not at {until:%H:%M:%S} UTC")
    erased = await store.erase(key)
    if not isinstance(erased, Locked):
        return failed("a locked object was deleted" if erased is None else f"a delete is {erased.reason}")
    if await store.lock(key, clock.now() + _SHORT) is None and not _still(await store.locked_until(key), until):
        return failed(
            "a lock was made shorter",
            'mode = "compliance", or take the right to bypass governance retention from these keys',
        )
    changed = ""
    for change, what in ((_overwrite, "written over"), (_delete, "deleted")):
        await change(store, key)
        if await store.read(key) != body:
            changed = changed or what
    if changed and not erased.version:
        return failed(f"a locked object was {changed}")
    if changed:
        return LockProof(
            store.name,
            locked=True,
            hides=True,
            detail="locked: deletion refused; but the bucket keeps versions, and an ordinary delete hides an object",
            hint="what was hidden is brought back as docs/howto/lock-the-copies.md says",
        )
    return LockProof(store.name, locked=True, detail="locked: deletion refused")


def _still(held: datetime | Unknown | None, until: datetime) -> bool:
    return isinstance(held, datetime) and held >= until - _SHORT


async def _overwrite(store: ObjectStore, key: str) -> None:
    await store.write(key, b"a thief's")


async def _delete(store: ObjectStore, key: str) -> None:
    await store.delete([key])


async def _clear(store: ObjectStore) -> None:
    """What earlier proofs left, where its minute is over."""
    page = await store.list(_PREFIX)
    if isinstance(page, Page) and page.objects:
        await store.delete([listed.key for listed in page.objects])

"""Filling a store that was away, or is new, from the other two: what they list and it lacks is copied.

Listings say what may be missing; what is copied was opened first (invariant 6).
Everything is created once, so a copy can never undo anything. Entries are copied only where they count: they are part
of an epoch that is over, or settled in ours. In the rest of the log's slots, and only there, seals are copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring
from threefold.quorum import keys
from threefold.quorum.history import History
from threefold.quorum.objects import Codec, Kind
from threefold.stores.confirm import Stored, create_confirmed
from threefold.stores.store import ObjectStore, Unknown
from threefold.vault.check import check_object

# Packs first needed least: claims and seals are small and matter most, packs are large and matter only to recovery.
_VAULT = ("snapshots/", "packs/")
_OPENED = (f"{keys.LOG}/", f"{keys.WAL}/")
_PREFIXES = ("keys", keys.EPOCHS, keys.LOG, keys.TIMELINES, keys.WAL, "snapshots", "packs")


@dataclass(frozen=True, slots=True)
class Filled:
    """What a pass did. ``complete``: nothing that the others listed is missing any more, as far as could be seen."""

    objects: int
    bytes: int
    complete: bool


async def fill(
    target: ObjectStore,
    sources: Sequence[ObjectStore],
    keyring: Keyring,
    codec: Codec,
    counts: Callable[[int, int], bool],
    progress: Callable[[int], None] = lambda _: None,
) -> Filled:
    """Copy to ``target`` what the sources have and it lacks; ``counts(epoch, slot)`` says whether an entry counts."""
    objects = size = 0
    complete = True
    for prefix in _PREFIXES:
        have = await _listing(target, prefix)
        if have is None:
            return Filled(objects, size, complete=False)
        for source in sources:
            wanted = await _listing(source, prefix)
            if wanted is None:
                complete = False
                continue
            for key in sorted(wanted - have):
                body = await source.read(key)
                # Opening a pack or a segment takes a while: the commit path must not wait for it.
                if not isinstance(body, bytes) or not await asyncio.to_thread(
                    _may_be_copied, key, body, keyring, codec, counts
                ):
                    complete = complete and not isinstance(body, Unknown)
                    continue
                answer = await create_confirmed(target, key, body)
                if isinstance(answer, Unknown):
                    return Filled(objects, size, complete=False)
                have.add(key)
                if isinstance(answer, Stored):
                    objects, size = objects + 1, size + len(body)
                    progress(len(body))
    return Filled(objects, size, complete)


def counting(spans: History, epoch: int, settled_slot: Callable[[], int]) -> Callable[[int, int], bool]:
    """Whether an entry counts: within an epoch that is over, or settled in ours."""
    last_slots: Mapping[int, int] = {span.epoch: span.last_slot for span in spans}

    def counts(of_epoch: int, slot: int) -> bool:
        return slot <= (settled_slot() if of_epoch == epoch else last_slots.get(of_epoch, -1))

    return counts


def _may_be_copied(key: str, body: bytes, keyring: Keyring, codec: Codec, counts: Callable[[int, int], bool]) -> bool:
    """Whether it opens, is what its key says, and counts. What is created once cannot be replaced by a better copy."""
    try:
        if key.startswith(_VAULT):
            check_object(key, body, keyring)
        elif key.startswith(_OPENED):
            header = codec.open(body).header
            if header.kind is Kind.SEGMENT:
                return key.startswith(f"{keys.wal_prefix(header.timeline)}/")
            # Where an entry counts, a seal would take the place of its second copy; elsewhere only seals may be.
            fits = counts(header.epoch, header.slot) is not (header.kind is Kind.SEAL)
            return fits and key == keys.slot_key(header.epoch, header.slot)
    except Damaged:
        return False
    return True


async def _listing(store: ObjectStore, prefix: str) -> set[str] | None:
    found: set[str] = set()
    async for key in _keys(store, prefix):
        if key is None:
            return None
        found.add(key)
    return found


async def _keys(store: ObjectStore, prefix: str) -> AsyncIterator[str | None]:
    after = ""
    while True:
        page = await store.list(prefix, after=after)
        if isinstance(page, Unknown):
            yield None
            return
        for listed in page.objects:
            yield listed.key
        if page.last or not page.objects:
            return
        after = page.objects[-1].key

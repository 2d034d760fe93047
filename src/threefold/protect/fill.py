"""Filling a store that was away, or is new, from the other two: what they list and it lacks is copied.

Listings say what may be missing; what is copied was opened first (invariant 6).
Everything is created once, so a copy can never undo anything. Entries are copied only where they count: they are part
of an epoch that is over, or settled in ours. In the rest of the log's slots, and only there, seals are copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.quorum import keys
from threefold.quorum.check import Counts, check_log_object, fits_slot
from threefold.quorum.objects import Codec, Kind, LogObject
from threefold.quorum.wrapped import replaced_on
from threefold.stores.confirm import Stored, create_confirmed
from threefold.stores.store import ObjectStore, Unknown
from threefold.vault.check import check_object
from threefold.vault.marks import read_marks

# Packs first needed least: claims and seals are small and matter most, packs are large and matter only to recovery.
_VAULT = ("snapshots/", "packs/")
_AT_ONCE = 8  # small objects on their way: one after the other, a far store would take hours
_LARGE_AT_ONCE = 2  # segments and packs: so many are in memory
# What the layers above keep there: sealed with the key of a purpose, and with its own name as header.
_SEALED = {"switches": "switch", "degraded": "degraded", "intake": "intake"}
_PRUNED = ("snapshots", "packs", keys.WAL)
_LOG = (keys.LOG, keys.TIMELINES, keys.WAL, "snapshots", "packs")
_PREFIXES = ("keys", keys.EPOCHS, keys.MEMBERS, "switches", "degraded", *_LOG)
# Of a store that joins (replacing.py): what may be copied at any time; and, once the middle has begun, everything.
AHEAD = ("keys", keys.EPOCHS, "degraded", *_LOG)
LAST = (*_PREFIXES, "intake")


@dataclass(frozen=True, slots=True)
class Filled:
    """What a pass did. ``complete``: nothing that the others listed is missing any more, as far as could be seen.

    ``damaged``: keys that no source gave whole.
    """

    objects: int
    bytes: int
    complete: bool
    damaged: tuple[str, ...] = ()


async def fill(
    target: ObjectStore,
    sources: Sequence[ObjectStore],
    keyring: Keyring,
    codec: Codec,
    counts: Counts,
    progress: Callable[[int], None] = lambda _: None,
    *,
    prefixes: Sequence[str] = _PREFIXES,
) -> Filled:
    """Copy to ``target`` what the sources have and it lacks; ``counts(epoch, slot)`` says whether an entry counts."""
    answering = list(sources)
    pass_ = _Pass(target, keyring, codec, counts, progress)
    # What is replaced or being pruned is not to come back from the stores that have not deleted it yet.
    replaced = await replaced_on([target, *sources], keyring) if "keys" in prefixes else frozenset[str]()
    for prefix in prefixes:
        have = await listing(target, prefix)
        if have is None:
            pass_.complete = False
            break
        for source in list(answering):
            wanted = await listing(source, prefix)
            if wanted is None:
                pass_.complete = False
                answering.remove(source)  # it would only hold the others up
                continue
            wanted -= have | replaced
            if wanted and prefix in _PRUNED:
                wanted -= (await read_marks([target, *sources], keyring)).sentenced()
            have |= await pass_.copy(source, sorted(wanted), prefix)
            if pass_.target_fails:
                return Filled(pass_.objects, pass_.bytes, complete=False)
    return Filled(pass_.objects, pass_.bytes, pass_.complete, tuple(sorted(pass_.damaged)))


class _Pass:
    """Copies what one store lacks, a few objects at a time."""

    def __init__(
        self,
        target: ObjectStore,
        keyring: Keyring,
        codec: Codec,
        counts: Counts,
        progress: Callable[[int], None],
    ) -> None:
        self._target = target
        self._keyring = keyring
        self._codec = codec
        self._counts = counts
        self._progress = progress
        self.objects = 0
        self.bytes = 0
        self.complete = True
        self.damaged: set[str] = set()
        self.target_fails = False

    async def copy(self, source: ObjectStore, wanted: Sequence[str], prefix: str) -> set[str]:
        """What is there now."""
        there: set[str] = set()
        left = iter(wanted)

        async def work() -> None:
            for key in left:
                if self.target_fails:
                    return
                if await self._copy(source, key):
                    there.add(key)

        small = prefix in {"keys", keys.EPOCHS, keys.LOG, keys.TIMELINES}
        await asyncio.gather(*(work() for _ in range(_AT_ONCE if small else _LARGE_AT_ONCE)))
        return there

    async def _copy(self, source: ObjectStore, key: str) -> bool:
        body = await source.read(key)
        if not isinstance(body, bytes):
            self.complete = self.complete and not isinstance(body, Unknown)
            return False
        # Opening a pack or a segment takes a while: the commit path must not wait for it. A codec is one thread's.
        try:
            if not await asyncio.to_thread(_may_be_copied, key, body, self._keyring, self._codec.fork(), self._counts):
                return False
        except Damaged:
            self.damaged.add(key)
            return False
        self.damaged.discard(key)
        answer = await create_confirmed(self._target, key, body)
        if isinstance(answer, Unknown):
            self.target_fails = True
            return False
        if isinstance(answer, Stored):
            self.objects, self.bytes = self.objects + 1, self.bytes + len(body)
            self._progress(len(body))
        return True


def _may_be_copied(key: str, body: bytes, keyring: Keyring, codec: Codec, counts: Counts) -> bool:
    """Whether it counts. What is created once cannot be replaced by a better copy.

    Raises Damaged where it does not open, or is not what its key says.
    """
    found = opens(key, body, keyring, codec)
    return found is None or found.header.kind is Kind.SEGMENT or fits_slot(found, counts)


def opens(key: str, body: bytes, keyring: Keyring, codec: Codec) -> LogObject | None:
    """What the log has under that key, opened. Raises Damaged where it does not open, or is not what its key says."""
    if key.startswith(_VAULT):
        check_object(key, body, keyring)
        return None
    purpose = _SEALED.get(key.partition("/")[0])
    if purpose is not None:
        keyring.sealer(purpose).open(body[NONCE_BYTES:], nonce=body[:NONCE_BYTES], header=key.encode())
        return None
    return check_log_object(key, body, keyring, codec)


async def listing(store: ObjectStore, prefix: str) -> set[str] | None:
    """Every key below the prefix; None where the store does not tell."""
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

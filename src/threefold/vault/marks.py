"""What prune is about to delete, written into the stores before it does: marks, and sentences.

    prune/{id}             a *mark*: keys that nothing needs; created once, deleted when all are gone or needed again;
                           where some are needed again and others have to wait, another of its age takes its place
    prune/{id}.{run}-now   a *sentence*: those of a mark that one run deletes; deleted by that run together with the
                           mark, by another run only when it is a day old

Both are on two stores before anything follows from them. They are what makes pruning safe beside a snapshot that reuses
chunks, without a clock and without a lock:

- prune puts the sentence on two stores, *then* looks which snapshots there are, then deletes what none of them needs;
- a snapshot puts its manifest on two stores, *then* looks for sentences, and withdraws where one names what it needs.

Of any two stores asked, one has what the other side wrote first. So either prune sees the manifest and spares its
packs and its log, or the snapshot sees the sentence; a snapshot that was reported as taken has all its packs, and the
log from its start on, however long it took (protect/needed_log.py). And a run deletes for twelve hours at most, and
asks before every request to delete whether its sentence still stands: neither clocks that differ by less than that nor
machines that sleep do harm beyond the one request that was under way.

Marks come a grace period earlier and make the collision rare: chunks in marked packs are not reused any more
(chunk_store.known_chunks). A pack that is marked may still be, or become, a snapshot's: one that began earlier and took
longer names packs that looked left over. So fillings and scrubs look after it like any other until a sentence names it;
what a sentence names they leave alone, so that what was deleted on one store does not come back from another. What
comes back nevertheless, because they asked a while ago, is marked by the next prune.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import zstandard

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.stores.store import ABSENT, Gone, ObjectStore, Unknown

PREFIX: Final = "prune"
_SENTENCE: Final = "-now"
_PURPOSE: Final = "prune"
_LOOKS: Final = 3
_BYTES_MAX: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Mark:
    """Keys that nothing needed ``at`` that time, while ``kept`` were the snapshots that were kept."""

    id: str
    at: datetime
    keys: frozenset[str]
    kept: tuple[str, ...] = ()
    sentence: str = ""  # the run that made it; empty for a mark

    @property
    def key(self) -> str:
        return f"{PREFIX}/{self.id}" + (f".{self.sentence}{_SENTENCE}" if self.sentence else "")


@dataclass(slots=True)
class Marks:
    """What the stores hold of them. ``listed``: the stores that listed them to the end."""

    marks: list[Mark] = field(default_factory=list)
    sentences: list[Mark] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # keys of which no copy opens
    silent: list[str] = field(default_factory=list)  # keys of which no copy opened, and one was not given
    listed: frozenset[str] = frozenset()

    def doomed(self) -> frozenset[str]:
        """All keys that are marked."""
        return frozenset[str]().union(*(mark.keys for mark in (*self.marks, *self.sentences)))

    def sentenced(self) -> frozenset[str]:
        """All keys that may be deleted at this moment."""
        return frozenset[str]().union(*(mark.keys for mark in self.sentences))

    @property
    def unreadable_sentence(self) -> bool:
        return any(key.endswith(_SENTENCE) for key in self.unreadable)

    @property
    def silent_sentence(self) -> bool:
        return any(key.endswith(_SENTENCE) for key in self.silent)


def encode(mark: Mark, keyring: Keyring, nonce: bytes) -> bytes:
    record = {"at": mark.at.isoformat(), "keys": sorted(mark.keys), "kept": mark.kept}
    plain = zstandard.compress(json.dumps(record).encode())
    return nonce + keyring.sealer(_PURPOSE).seal(plain, nonce=nonce, header=mark.key.encode())


def decode(key: str, body: bytes, keyring: Keyring) -> Mark:
    """Raises Damaged."""
    plain = keyring.sealer(_PURPOSE).open(body[NONCE_BYTES:], nonce=body[:NONCE_BYTES], header=key.encode())
    try:
        record: dict[str, Any] = json.loads(zstandard.decompress(plain, max_output_size=_BYTES_MAX))
        name, _, run = key.rpartition("/")[2].removesuffix(_SENTENCE).partition(".")
        return Mark(name, datetime.fromisoformat(record["at"]), frozenset(record["keys"]), tuple(record["kept"]), run)
    except (ValueError, KeyError, TypeError, zstandard.ZstdError):
        raise Damaged(f"{key} does not read as a mark") from None


async def read_marks(stores: Mapping[str, ObjectStore] | Sequence[ObjectStore], keyring: Keyring) -> Marks:
    """The union of what the stores have; a store that does not answer is not in ``listed``."""
    each = list(stores.values()) if isinstance(stores, Mapping) else list(stores)
    found = Marks()
    for _ in range(_LOOKS):  # a list may be stale for long
        lists = await asyncio.gather(*(_listed(store) for store in each))
        holders: dict[str, list[ObjectStore]] = {}
        for store, keys in zip(each, lists, strict=True):
            for key in keys or ():
                holders.setdefault(key, []).append(store)
        found = Marks(listed=frozenset(store.name for store, keys in zip(each, lists, strict=True) if keys is not None))
        vanished = False
        for key, holding in sorted(holders.items()):
            mark = await _read(key, holding, keyring)
            if isinstance(mark, Mark):
                (found.sentences if mark.sentence else found.marks).append(mark)
            elif mark is ABSENT:
                vanished = vanished or key.endswith(_SENTENCE)
            else:
                (found.silent if isinstance(mark, Unknown) else found.unreadable).append(key)
        if not vanished:  # otherwise another one may stand in its place by now
            break
    return found


async def _listed(store: ObjectStore) -> list[str] | None:
    keys: list[str] = []
    while True:
        page = await store.list(PREFIX, after=keys[-1] if keys else "")
        if isinstance(page, Unknown):
            return None
        keys += [listed.key for listed in page.objects]
        if page.last or not page.objects:
            return keys


async def _read(key: str, holding: Sequence[ObjectStore], keyring: Keyring) -> Mark | Gone | Unknown | None:
    """ABSENT: it was deleted since it was listed. None: it is there, and no copy opens; Unknown: or is not given."""
    answers = [await store.read(key) for store in holding]
    for body in answers:
        if isinstance(body, bytes):
            try:
                return decode(key, body, keyring)
            except Damaged:
                continue
    if all(answer is ABSENT for answer in answers):
        return ABSENT
    return next((answer for answer in answers if isinstance(answer, Unknown)), None)

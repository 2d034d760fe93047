"""Looking at one object's copies, and mending what decide.py allows: the hands of scrub and repair.

Replacing goes in an order that leaves nothing worse wherever it stops: the good copy is read again from two other
stores and opened; the damaged one is read again, and has to be damaged again (bytes may have been spoilt on their way
once); it is deleted, and must then be definitely absent: a store that keeps it, by a retention lock or otherwise, is
reported; the good copy is created. A process that dies in between leaves a missing copy, which the next repair, or a
running `threefold protect`, fills in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring
from threefold.quorum import keys
from threefold.quorum.check import check_log_object
from threefold.quorum.objects import Codec
from threefold.stores.confirm import Stored, Taken, create_confirmed
from threefold.stores.store import ABSENT, Gone, Locked, ObjectStore, Unknown, Unreadable
from threefold.upkeep.decide import SWITCHES, Copy, Decision, LogFacts, State, decide, prefix_of
from threefold.upkeep.listing import Seen
from threefold.upkeep.pace import Pace
from threefold.vault.check import check_object

_TRIES: Final = 3
_PAUSE_S: Final = 0.2
_LARGE_BYTES: Final = 64 * 1024
_SILENT_IN_A_ROW: Final = 4
_VAULT: Final = ("snapshots", "packs")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with one store's copy; ``store`` is empty where no store has the object."""

    store: str
    key: str
    what: str  # missing, damaged, unknown, lost
    why: str  # how it shows; where it was not mended, why not
    mended: bool = False


class Mender:
    """Works on one object at a time; several may be under way."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        codec: Codec,
        clock: Clock,
        pace: Pace,
        *,
        segment_bytes: int = keys.SEGMENT_BYTES,
        replaced: Collection[str] = (),
    ) -> None:
        """``replaced``: wrapped keys that are not to be brought back."""
        self._stores = stores
        self._keyring = keyring
        self._codec = codec
        self._segment_bytes = segment_bytes
        self._replaced = frozenset(replaced)
        self._clock = clock
        self._pace = pace
        self.away: dict[str, str] = {}  # stores that are not asked any more, and why
        self._silent = dict.fromkeys(stores, 0)  # answers in a row that were none
        self.read_bytes = dict.fromkeys(stores, 0)
        self.read_objects = dict.fromkeys(stores, 0)

    async def look(self, seen: Seen, *, first: int = 0) -> dict[str, Copy]:
        """Each store's copy, read whole and opened; one body in memory. ``first``: which store to begin with."""
        names = list(self._stores)
        known: dict[bytes, bool] = {}  # digest of bytes that opened: is an entry
        copies = {}
        for name in [*names[first % len(names) :], *names[: first % len(names)]]:
            copies[name] = await self._copy(name, seen, known)
        return {name: copies[name] for name in names}

    async def mend(self, seen: Seen, log: LogFacts | None, *, only: str | None = None, first: int = 0) -> list[Finding]:
        """Look, decide, act. ``only`` one store is changed."""
        copies = await self.look(seen, first=first)
        decision = decide(seen.key, copies, log, replaced=seen.key in self._replaced)
        if decision.fine:
            return []
        key, findings = seen.key, []
        good = [name for name, copy in copies.items() if copy.state is State.WHOLE]
        if prefix_of(key) == keys.LOG and log is not None and log.counts(*_position(key)):
            good = [name for name in good if copies[name].entry]
        if decision.lost:
            states = ", ".join(f"{copy.state.value} on {name}" for name, copy in copies.items())
            findings.append(Finding("", key, "lost", states))
        findings += [
            Finding(name, key, "unknown", copies[name].why) for name in decision.unknown if name not in self.away
        ]
        for name in decision.missing:
            why = decision.why.get(name, "")
            if name in decision.copy_to and _concerns(only, name):
                why = await self._put(key, name, good)
                good = [*good, name] if not why else good
                findings.append(Finding(name, key, "missing", why, mended=not why))
            elif _concerns(only, name):
                findings.append(Finding(name, key, "missing", why))
        for name in decision.damaged:
            findings += await self._damaged(key, name, copies[name], good, decision, only)
        return findings

    async def _damaged(
        self, key: str, name: str, copy: Copy, good: list[str], decision: Decision, only: str | None
    ) -> list[Finding]:
        if name in decision.replace and _concerns(only, name):
            why = await self._replace(key, name, [each for each in good if each != name])
            return [Finding(name, key, "damaged", f"{copy.why}; {why}" if why else copy.why, mended=not why)]
        if not _concerns(only, name):
            return []
        why = decision.why.get(name, "")
        return [Finding(name, key, "damaged", f"{copy.why}; {why}" if why else copy.why)]

    async def _copy(self, name: str, seen: Seen, known: dict[bytes, bool]) -> Copy:
        if name in self.away:
            return Copy(State.UNKNOWN, why=self.away[name])
        body = await self._read(name, seen)
        silent = isinstance(body, Unknown) and not isinstance(body, Unreadable)
        self._silent[name] = self._silent[name] + 1 if silent else 0
        if isinstance(body, Unknown) and self._silent[name] >= _SILENT_IN_A_ROW:
            self.away[name] = body.reason
        if body is ABSENT:
            return Copy(State.ABSENT)
        listed = seen.sizes.get(name, 0)
        if isinstance(body, Unreadable):
            return Copy(State.DAMAGED, listed, why=f"the store says so itself: {body.reason}")
        if not isinstance(body, bytes):
            return Copy(State.UNKNOWN, why=body.reason if isinstance(body, Unknown) else "")
        self.read_objects[name] += 1
        # In a thread: 16 MiB take a while to open, and the other reads need not wait for it.
        return await asyncio.to_thread(self._judged, seen.key, body, known)

    def _judged(self, key: str, body: bytes, known: dict[bytes, bool]) -> Copy:
        digest = sha256(body).digest()
        if digest not in known:
            try:
                known[digest] = self._check(key, body)
            except Damaged as damage:
                return Copy(State.DAMAGED, len(body), why=damage.message)
        return Copy(State.WHOLE, len(body), digest, known[digest])

    def _check(self, key: str, body: bytes) -> bool:
        """Whether it is an entry of the log. Raises Damaged."""
        prefix = prefix_of(key)
        if prefix in _VAULT:
            check_object(key, body, self._keyring)
        elif prefix != SWITCHES:  # a step of a switch is known by being on two stores
            codec = self._codec.fork()  # a codec is one thread's
            found = check_log_object(key, body, self._keyring, codec, segment_bytes=self._segment_bytes)
            return found is not None and not found.is_seal
        return False

    async def _read(self, name: str, seen: Seen) -> bytes | Gone | Unknown:
        answer: bytes | Gone | Unknown = Unknown("it was not asked")
        for again in range(_TRIES):
            answer = await self._stores[name].read(seen.key)
            if not isinstance(answer, Unknown):
                break
            if not isinstance(answer, Unreadable) and seen.sizes.get(name, 0) > _LARGE_BYTES:
                answer = await self._where_it_breaks(name, seen.key, 0, seen.sizes[name]) or answer
            if isinstance(answer, Unreadable):
                break
            if again + 1 < _TRIES:
                await self._clock.sleep(_PAUSE_S * (1 + again))
        size = len(answer) if isinstance(answer, bytes) else 0
        self.read_bytes[name] += size
        await self._pace.passed(name, size)
        return answer

    async def _where_it_breaks(self, name: str, key: str, start: int, end: int) -> Unreadable | None:
        """A large object that breaks off in its middle: whether the store itself calls a part of it damaged.

        The status is gone out by the time a server meets a bad block, unless that block is the first one asked for.
        """
        while end - start > 1:
            middle = (start + end) // 2
            answer = await self._stores[name].read(key, start=start, length=middle - start)
            await self._pace.passed(name, middle - start)
            if isinstance(answer, Unreadable):
                return answer
            if isinstance(answer, bytes) and len(answer) == middle - start:
                start = middle
            else:
                end = middle
        answer = await self._stores[name].read(key, start=start, length=end - start)
        return answer if isinstance(answer, Unreadable) else None

    async def _good(self, key: str, sources: Iterable[str], wanted: int) -> list[bytes]:
        """Whole copies of as many sources, read now."""
        found: list[bytes] = []
        for name in sources:
            if len(found) == wanted:
                break
            body = await self._read(name, Seen(key, {}))
            if isinstance(body, bytes) and await asyncio.to_thread(self._opens, key, body):
                found.append(body)
        return found

    def _opens(self, key: str, body: bytes) -> bool:
        try:
            self._check(key, body)
        except Damaged:
            return False
        return True

    async def _put(self, key: str, name: str, sources: Iterable[str]) -> str:
        """Create a copy. Why not; empty where it is there."""
        bodies = await self._good(key, sources, 1)
        return await self._create(key, name, bodies[0]) if bodies else "no store gives it whole just now"

    async def _create(self, key: str, name: str, body: bytes) -> str:
        answer: Stored | Taken | Unknown = Unknown("it was not asked")
        for again in range(_TRIES):
            answer = await create_confirmed(self._stores[name], key, body)
            if not isinstance(answer, Unknown):
                break
            if again + 1 < _TRIES:
                await self._clock.sleep(_PAUSE_S * (1 + again))
        await self._pace.passed(name, len(body))
        if isinstance(answer, Unknown):
            return f"it could not be put there: {answer.reason}"
        if isinstance(answer, Taken) and not await asyncio.to_thread(self._opens, key, answer.existing):
            return "something else stands there, and is damaged as well"
        return ""  # ours, or somebody else's whole object: a take-over's seal, another leader's equal segment

    async def _replace(self, key: str, name: str, sources: list[str]) -> str:
        """Why it was not done; empty where the good copy stands there now."""
        bodies = await self._good(key, sources, 2)
        if len(bodies) < 2 or (prefix_of(key) != keys.WAL and bodies[0] != bodies[1]):
            return "two other stores do not give it whole just now"
        again = await self._read(name, Seen(key, {name: len(bodies[0])}))
        if again is ABSENT:
            return await self._create(key, name, bodies[0])
        if isinstance(again, Unknown) and not isinstance(again, Unreadable):
            return f"the damaged copy could not be read again: {again.reason}"
        # A wrapped key is known by its likeness to the other two alone: it does not open without the passphrase.
        opens = (
            prefix_of(key) != "keys" and isinstance(again, bytes) and await asyncio.to_thread(self._opens, key, again)
        )
        if again == bodies[0] or opens:
            return "it reads whole now: something on the way had spoilt it"
        answer = await self._stores[name].delete([key])
        if isinstance(answer, Locked):
            return (
                f"it cannot go before its retention lock ends, at {answer.until:%Y-%m-%d %H:%M} UTC: scrub again then"
            )
        if isinstance(answer, Unknown):
            return f"the store does not let it go ({answer.reason}): a retention lock?"
        if await self._stores[name].read(key, length=1) is not ABSENT:
            return "the store keeps it although it said that it was deleted: a retention lock?"
        return await self._create(key, name, bodies[0])


def _concerns(only: str | None, name: str) -> bool:
    return only is None or only == name


def _position(key: str) -> tuple[int, int]:
    _, epoch, slot = key.split("/")
    return int(epoch, 16), int(slot, 16)

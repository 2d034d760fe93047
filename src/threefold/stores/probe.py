"""What a store must prove before it may vote; a store that fails is refused, with the reason.

Documentation is not enough: some servers ignore ``If-None-Match`` without a word, some honour it but not atomically,
one stops when its bucket is versioned. A create that overwrites would let two writers both believe that a slot is
theirs, which is the end of fencing. So the promises are tried on the very bucket and prefix that will be used:

1. creating twice: the second is told "exists", and the first one's bytes stay;
2. racing: ``ROUNDS`` times ``RIVALS`` creates of one key at once, exactly one winner, whose bytes are read back;
3. a missing key is definitely absent (not "unknown"), or no take-over could ever come to an end;
4. ranges: from the middle, to the end, past the end; and an object of several megabytes;
5. what was written is read and listed at once, sorted, and page by page with ``after``;
6. overwriting (beacons), deleting, deleting again.

Everything lies under ``probe/{id}/`` and is deleted at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from threefold.kernel.clock import Clock
from threefold.stores.store import ABSENT, Gone, Made, ObjectStore, Page, Unknown

ROUNDS = 5
RIVALS = 20
LATENCY_SAMPLES = 12
_LARGE = 3 << 20  # beyond what any server keeps inline
_ENTRY = 8192  # a small commit's entry
_RETRIES_HINT = "see why the store did not answer (address, keys, rights, bucket), then probe again"
_OTHER_HINT = "take another store (docs/reference/stores.md names those that pass)"
_CONDITIONAL_HINT = (
    "this store does not honour If-None-Match atomically: take another (docs/reference/stores.md); "
    "on Ceph the bucket must not be versioned"
)
_RIGHTS_HINT = "the keys need the rights to put, get, list and delete; a default retention lock must not cover probe/"


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise, tried."""

    name: str
    passed: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """All findings on one store, and the latency of creates of ``8 kB`` in seconds (0 where none succeeded)."""

    store: str
    findings: tuple[Finding, ...]
    create_p50: float
    create_p99: float

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    @property
    def refusal(self) -> str:
        """Why the store is refused, in one line; empty where it passed."""
        return "; ".join(finding.detail for finding in self.findings if not finding.passed)


async def probe(store: ObjectStore, clock: Clock) -> ProbeReport:
    """Some 160 requests, about a second on a quick line. Does not raise for what a store does."""
    tried = _Probe(store, clock)
    findings: list[Finding] = []
    try:
        for name, attempt in tried.promises():
            findings.append(await _try(name, attempt))
            if name == "answers" and not findings[-1].passed:
                break  # nothing else could be told from silence
    finally:
        leftover = await store.delete(sorted(tried.written))
    if leftover is not None and findings[0].passed:
        findings.append(Finding("clean up", passed=False, detail=leftover.reason, hint=_RIGHTS_HINT))
    took = sorted(tried.took)
    return ProbeReport(
        store.name,
        tuple(findings),
        create_p50=took[len(took) // 2] if took else 0.0,
        create_p99=took[-1] if took else 0.0,
    )


class _Broken(Exception):
    """A promise that was not kept."""

    def __init__(self, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.hint = hint


async def _try(name: str, attempt: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(name, passed=True, detail=await attempt())
    except _Broken as broken:
        return Finding(name, passed=False, detail=str(broken), hint=broken.hint)


class _Probe:
    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._home = f"probe/{clock.new_id()}"
        self.written: set[str] = set()
        self.took: list[float] = []

    def promises(self) -> tuple[tuple[str, Callable[[], Awaitable[str]]], ...]:
        return (
            ("answers", self._answers),
            ("create once", self._create_once),
            ("race", self._race),
            ("ranges", self._ranges),
            ("large object", self._large),
            ("list", self._list),
            ("overwrite", self._overwrite),
            ("delete", self._delete),
        )

    async def _answers(self) -> str:
        """A missing key is absent; then the latency of small creates."""
        self._expect(await self._store.read(f"{self._home}/nothing"), ABSENT, "a read of a key that was never written")
        for number in range(LATENCY_SAMPLES):
            began = self._clock.monotonic()
            await self._made(f"latency/{number:02}", bytes(_ENTRY))
            self.took.append(self._clock.monotonic() - began)
        return f"{LATENCY_SAMPLES} creates of 8 kB, the slowest in {max(self.took) * 1000:.0f} ms"

    async def _create_once(self) -> str:
        key = await self._made("once", b"the first")
        second = await self._store.create(key, b"the second")
        if second is Made.CREATED:
            raise _Broken("a second create of the same key was told that it created it", _CONDITIONAL_HINT)
        self._expect(second, Made.EXISTS, "a second create of the same key")
        self._expect(await self._store.read(key), b"the first", "the key after a second create")
        return "the second create was refused, the first one's bytes stand"

    async def _race(self) -> str:
        """The next round begins as soon as one has won: SeaweedFS lets losers wait for seconds, one after the other."""
        async with asyncio.TaskGroup() as running:
            rounds: list[tuple[str, dict[asyncio.Task[Made | Unknown], bytes]]] = []
            for number in range(ROUNDS):
                key = self._key(f"race/{number}")
                bodies = [f"round {number} rival {rival} ".encode() * 400 for rival in range(RIVALS)]
                rounds.append((key, {running.create_task(self._store.create(key, body)): body for body in bodies}))
                await _won(rounds[-1][1])
        undecided = 0
        for key, rivals in rounds:
            winners = [body for rival, body in rivals.items() if rival.result() is Made.CREATED]
            answers = [rival.result() for rival in rivals]
            unknown = [answer.reason for answer in answers if isinstance(answer, Unknown)]
            undecided += len(unknown)  # a loser may be told "ask again" (AWS: 409), a winner must be told
            if len(winners) > 1:
                raise _Broken(
                    f"{len(winners)} of {RIVALS} concurrent creates of one key were told that they won",
                    _CONDITIONAL_HINT,
                )
            if not winners:
                why = f": {unknown[0]}" if unknown else ""
                raise _Broken(
                    f"none of {RIVALS} concurrent creates of one key was told that it won{why}", _RETRIES_HINT
                )
            self._expect(await self._store.read(key), winners[0], "the winner's object after a race")
        return f"one winner in each of {ROUNDS} rounds of {RIVALS}" + (f", {undecided} undecided" if undecided else "")

    async def _ranges(self) -> str:
        body = bytes(range(256)) * 4
        key = await self._made("ranges", body)
        for start, length in (
            (0, None),
            (100, 300),
            (1000, None),
            (1000, 300),
            (0, 1),
            (1024, 10),
            (5000, None),
            (7, 0),
        ):
            wanted = body[start:] if length is None else body[start : start + length]
            answer = await self._store.read(key, start=start, length=length)
            self._expect(answer, wanted, f"a read of {'the rest' if length is None else length} from byte {start}")
        return "ranges from the middle, to the end and past it are right"

    async def _large(self) -> str:
        body = self._home.ljust(64).encode() * (_LARGE // 64)
        key = await self._made("large", body)
        self._expect(await self._store.create(key, body[1:]), Made.EXISTS, "a second create of a large object")
        self._expect(await self._store.read(key), body, "a large object")
        tail = await self._store.read(key, start=len(body) - 9)
        self._expect(tail, body[-9:], "the tail of a large object")
        return f"an object of {len(body) >> 20} MiB was created once and read back"

    async def _list(self) -> str:
        keys = [await self._made(f"list/{number:03}", bytes(number)) for number in range(7)]
        await self._made("listed-elsewhere", b"")  # no whole path part in common
        found: list[tuple[str, int]] = []
        after = ""
        for _ in range(3):
            page = await self._store.list(f"{self._home}/list", after=after, limit=3)
            if not isinstance(page, Page):
                raise _Broken(f"a listing: {page.reason}", _RETRIES_HINT)
            found += [(listed.key, listed.size) for listed in page.objects]
            after = found[-1][0] if found else ""
            if page.last:
                break
        if found != [(key, number) for number, key in enumerate(keys)]:
            raise _Broken(
                f"a listing of {len(keys)} fresh objects, three to a page, gave {len(found)} or in another order",
                "the store must list at once what was written, sorted, and go on after a given key",
            )
        return "fresh objects are listed at once, sorted, page by page"

    async def _overwrite(self) -> str:
        key = self._key("overwrite")
        for body in (b"one", b"two"):
            self._expect(await self._store.write(key, body), None, "an overwrite")
            self._expect(await self._store.read(key), body, "an object after it was overwritten")
        return "the last write is read"

    async def _delete(self) -> str:
        keys = [await self._made(f"delete/{number}", b"x") for number in range(3)]
        for doomed in (keys[:1], keys):  # the second time the first one is missing already
            self._expect(await self._store.delete(doomed), None, "a delete", hint=_RIGHTS_HINT)
        for key in keys:
            self._expect(await self._store.read(key), ABSENT, "a deleted object", hint=_RIGHTS_HINT)
        self._expect(await self._store.create(keys[0], b"y"), Made.CREATED, "a create after a delete")
        return "deleted objects are gone, and deleting what is gone is fine"

    def _key(self, tail: str) -> str:
        key = f"{self._home}/{tail}"
        self.written.add(key)
        return key

    async def _made(self, tail: str, body: bytes) -> str:
        key = self._key(tail)
        self._expect(await self._store.create(key, body), Made.CREATED, "a create of a new key")
        return key

    def _expect(self, answer: object, wanted: object, what: str, *, hint: str = "") -> None:
        if answer == wanted:
            return
        if isinstance(answer, Unknown):
            raise _Broken(f"{what}: {answer.reason}", hint or _RETRIES_HINT)
        raise _Broken(f"{what} gave {_told(answer)} instead of {_told(wanted)}", hint or _OTHER_HINT)


async def _won(rivals: Iterable[asyncio.Task[Made | Unknown]]) -> None:
    """Until one of them was told so, or all have lost."""
    waiting = set(rivals)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if any(rival.result() is Made.CREATED for rival in done):
            return


def _told(answer: object) -> str:
    if isinstance(answer, bytes):
        return f"{len(answer)} bytes" if len(answer) > 24 else f"{answer!r}"
    if isinstance(answer, (Made, Gone)):
        return f'"{answer.value}"'
    return "done" if answer is None else "something else"

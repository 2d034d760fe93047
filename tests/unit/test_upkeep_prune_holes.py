"""Prune where stores time out, clocks stand still, and others fill, scrub and replace stores beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pytest
from tests.stored import CLOCK, KEYRING, LOG, SEGMENT, T0, Stored, keys_of, unaffected
from tests.unit.test_upkeep_prune import DAY, NARROW, Hand, history, prune
from tests.unit.test_upkeep_prune_beside import Pauses

from threefold.kernel.errors import Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.protect.fill import LAST, fill
from threefold.protect.founding import admit
from threefold.protect.replacing import change_membership
from threefold.quorum import keys
from threefold.quorum.check import counting
from threefold.quorum.members import Format
from threefold.quorum.membership import FOUNDED, Membership, ReplacedError
from threefold.quorum.objects import Codec
from threefold.quorum.reader import read_extent
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Made, ObjectStore, Page, Unknown
from threefold.upkeep.prune import Prune, PruneReport
from threefold.upkeep.scrub import Scrub
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Manifest, snapshot_key
from threefold.vault.marks import read_marks


class Over(MemoryStore):
    """Another process's view of the same store."""

    def __init__(self, of: MemoryStore) -> None:
        super().__init__(of.name)
        self.objects = of.objects


class Passing(Hand):
    """Whoever sleeps lets time pass."""

    async def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        await asyncio.sleep(0)


class NoPacks(Over):
    """Lists and takes everything, and times out when a pack is read."""

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        if key.startswith("packs/"):
            return Unknown("timed out")
        return await super().read(key, start=start, length=length)


class Away(Over):
    async def create(self, key: str, body: bytes) -> Made | Unknown:
        return Unknown("away")

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("away")

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        return Unknown("away")

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        return Unknown("away")


async def sharing(here: Stored, clock: Hand) -> tuple[Manifest, str, Mapping[str, bytes]]:
    """A snapshot under way that shares with the oldest one a pack which nothing else needs: it, and the pack's key."""
    old = await here.vault().manifest(here.snapshots[0].id)
    begin = Lsn(len(here.wal) - SEGMENT)
    _, manifest, bodies = await here.drafted(at=clock.now(), start=begin, stop=Lsn(begin + 100), share=3)
    both = Manifest(
        manifest.summary, manifest.files, (), [*manifest.names, *old.names], [*manifest.places, *old.places]
    )
    return both, old.pack_keys()[0], bodies


async def sent(stores: Mapping[str, ObjectStore], bodies: Mapping[str, bytes]) -> None:
    for key, body in bodies.items():
        for store in stores.values():
            await store.create(key, body)


async def halted(here: Stored) -> tuple[asyncio.Task[PruneReport], asyncio.Event]:
    """A prune that stands still at its first delete, until the event; what it deletes was marked before."""
    await prune(here, T0 + 8 * DAY)
    deleting, go_on = asyncio.Event(), asyncio.Event()
    free = here.stores
    here.stores = {name: Pauses(store, deleting, go_on) for name, store in free.items()}
    running = asyncio.create_task(prune(here, T0 + 10 * DAY))
    await deleting.wait()
    here.stores = free
    return running, go_on


def on(stores: Mapping[str, MemoryStore], key: str) -> list[str]:
    return [name for name, store in stores.items() if key in store.objects]


async def test_packs_that_no_store_gives_at_the_moment_do_not_count_as_there() -> None:
    """The sentence has been carried out and taken back, and two stores time out: unknown is not present."""
    here = await history()
    late, doomed, bodies = await sharing(here, Hand(T0 + 9 * DAY))
    free = here.stores
    running, go_on = await halted(here)
    await sent(free, bodies)
    await here.vault().publish(late)  # the other one has looked already
    go_on.set()
    await running  # has deleted, and taken its sentence back
    assert on(free, doomed) == []
    assert keys_of(free, "prune/") == []
    deaf = {"S1": NoPacks(free["S1"]), "S2": NoPacks(free["S2"]), "S3": free["S3"]}
    vault = Vault(deaf, KEYRING, Passing(T0 + 10 * DAY), read_patience_seconds=0.5)
    with pytest.raises(Unavailable):
        await unaffected(vault, late)


@pytest.mark.parametrize(
    "now", [T0 + 11 * DAY, T0 + 12 * DAY], ids=["its clock is a day behind", "it stood still, and its clock with it"]
)
async def test_a_run_whose_clock_is_behind_deletes_nothing_by_a_sentence_that_another_took_back(now: datetime) -> None:
    here = await history()
    late, doomed, bodies = await sharing(here, Hand(T0 + 9 * DAY))
    await prune(here, T0 + 8 * DAY)
    deleting, go_on = asyncio.Event(), asyncio.Event()
    stopped = Hand(T0 + 10 * DAY)
    stores = {name: Pauses(store, deleting, go_on) for name, store in here.stores.items()}
    running = asyncio.create_task(Prune(stores, KEYRING, stopped, Silent(), NARROW, fork_bytes=SEGMENT).run())
    await deleting.wait()
    await sent(here.stores, bodies)
    vault = here.vault()
    await vault.publish(late)
    assert doomed in (await prune(here, now)).spared
    taken = True
    try:
        await unaffected(vault, late)
    except Unavailable:
        taken = False
    go_on.set()
    await asyncio.gather(running, return_exceptions=True)
    assert not taken or len(on(here.stores, doomed)) >= 2, "reported as taken, and lost"


class OneByOne(Over):
    """Refuses several at once, and stands still at the first single one of a pack."""

    def __init__(self, of: MemoryStore, deleting: asyncio.Event, go_on: asyncio.Event) -> None:
        super().__init__(of)
        self._deleting, self._go_on = deleting, go_on

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        if len(keys) > 1:
            return Unknown("timed out")
        if keys[0].startswith("packs/"):
            self._deleting.set()
            await self._go_on.wait()
        return await super().delete(keys)


async def test_who_deletes_one_by_one_asks_each_time_whether_it_still_may() -> None:
    """A batch may be many requests of a minute each."""
    here = await history()
    late, _, bodies = await sharing(here, Hand(T0 + 9 * DAY))
    marked = (await prune(here, T0 + 8 * DAY)).marked
    doomed = sorted(key for key in marked if key.startswith("packs/"))
    last = doomed[-1].rpartition("/")[2]
    (other,) = [each.id for each in here.snapshots[:5] if last in (await here.vault().manifest(each.id)).packs()][:1]
    old = await here.vault().manifest(other)
    late = Manifest(late.summary, late.files, (), list(old.names), list(old.places))
    deleting, go_on = asyncio.Event(), asyncio.Event()
    clock = Hand(T0 + 10 * DAY)
    stores = {name: OneByOne(store, deleting, go_on) for name, store in here.stores.items()}
    running = asyncio.create_task(Prune(stores, KEYRING, clock, Silent(), NARROW, fork_bytes=SEGMENT).run())
    await deleting.wait()
    first = set(doomed) - set(here.stores["S1"].objects)
    assert not first
    clock.at += 2 * DAY
    await sent(here.stores, bodies)
    await here.vault().publish(late)
    await prune(here, T0 + 12 * DAY)
    await unaffected(here.vault(), late)
    go_on.set()
    await asyncio.gather(running, return_exceptions=True)
    assert on(here.stores, doomed[-1]) == ["S1", "S2", "S3"]


class Refuses(Over):
    """Takes no marks nor sentences (a quota, a time-out); gives and deletes."""

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        return Unknown("timed out") if key.startswith("prune/") else await super().create(key, body)


async def test_beside_a_replacement_the_new_three_report_no_snapshot_that_loses_a_pack() -> None:
    """On S1 and S3 only; S3 is replaced by S4 while it is carried out; the author meets S2 and S4."""
    here = await history()
    late, doomed, bodies = await sharing(here, Hand(T0 + 9 * DAY))
    plain = dict(here.stores)
    await prune(here, T0 + 8 * DAY)
    deleting, go_on = asyncio.Event(), asyncio.Event()

    class PausesToo(Refuses):
        async def delete(self, keys: Sequence[str]) -> None | Unknown:
            await go_on.wait()
            return await super().delete(keys)

    here.stores = {
        "S1": Pauses(plain["S1"], deleting, go_on),
        "S2": PausesToo(plain["S2"]),
        "S3": Pauses(plain["S3"], deleting, go_on),
    }
    running = asyncio.create_task(prune(here, T0 + 10 * DAY))
    await deleting.wait()
    # The replacement, by its real parts.
    joining = MemoryStore("S4")
    every = {**plain, "S4": joining}
    joint = Membership(1, ("S1", "S2"), "S3", "S4")
    await change_membership(every, KEYRING, CLOCK, FOUNDED, joint)
    extent = await read_extent({name: plain[name] for name in ("S1", "S2")}, KEYRING, CLOCK, patience=5)
    counts = counting(extent.found.spans, -1, lambda: -1)
    codec = Codec(KEYRING, LOG)
    filled = await fill(joining, [plain["S1"], plain["S2"]], KEYRING, codec, counts, prefixes=LAST)
    assert filled.complete
    await admit(joining, Format.decode(plain["S1"].objects[keys.FORMAT]), CLOCK)
    await change_membership(every, KEYRING, CLOCK, joint, joint.completed())
    # A snapshot by the new three; S1 is away just then.
    three: dict[str, ObjectStore] = {"S1": Away(plain["S1"]), "S2": plain["S2"], "S4": joining}
    vault = Vault(three, KEYRING, Passing(T0 + 10 * DAY), read_patience_seconds=0.5)
    await sent({"S2": plain["S2"], "S4": joining}, bodies)
    await vault.publish(late)
    taken = True
    try:
        await unaffected(vault, late)
    except Unavailable:
        taken = False
    go_on.set()
    await asyncio.gather(running, return_exceptions=True)
    assert not taken or on(every, doomed), "reported as taken, and on no store"


_VAULT = ("snapshots", "packs")  # the segments of these tests are smaller than a store that joins expects


async def _overlapping(here: Stored) -> tuple[Manifest, str]:
    """A snapshot that began first and ended last; S3 was left behind. A pack of it is marked meanwhile."""
    begin = Lsn(len(here.wal) - SEGMENT)
    _, manifest, bodies = await here.drafted(at=T0 + 8 * DAY, start=begin, stop=Lsn(begin + 300), share=0)
    (own,) = bodies
    await sent({name: here.stores[name] for name in ("S1", "S2")}, bodies)
    await here.snapshot(at=T0 + 8 * DAY + timedelta(hours=1), start=begin, stop=Lsn(begin + 200))
    assert own in (await prune(here, T0 + 8 * DAY + timedelta(hours=2))).marked
    vault = here.vault()
    await vault.publish(manifest)
    await unaffected(vault, manifest)  # reported as taken
    here.snapshots.append(manifest.summary)
    return manifest, own


async def test_what_is_marked_and_needed_again_is_filled() -> None:
    here = await history()
    _, own = await _overlapping(here)
    done = await fill(
        here.stores["S3"],
        [here.stores["S1"], here.stores["S2"]],
        KEYRING,
        Codec(KEYRING, LOG),
        lambda _epoch, _slot: True,
    )
    assert done.complete
    assert "S3" in on(here.stores, own)


async def test_and_scrubbed() -> None:
    here = await history()
    _, own = await _overlapping(here)
    here.stores["S1"].objects[own] = b"damaged"
    names = list(here.stores)
    report = await Scrub(here.stores, KEYRING, CLOCK, HealthBook(names), Silent()).everything()
    assert any(finding.key == own for finding in report.findings)


async def test_and_carried_to_the_store_that_replaces_another() -> None:
    """S1 leaves with one of the two copies: S4 would vote without one."""
    here = await history()
    _, own = await _overlapping(here)
    joining = MemoryStore("S4")
    staying = [here.stores["S2"], here.stores["S3"]]
    done = await fill(joining, staying, KEYRING, Codec(KEYRING, LOG), lambda _epoch, _slot: True, prefixes=_VAULT)
    after = {"S2": here.stores["S2"], "S3": here.stores["S3"], "S4": joining}
    assert not done.complete or len(on(after, own)) >= 2


async def test_a_snapshot_is_withdrawn_from_a_store_that_did_not_answer_at_first() -> None:
    """Filling would spread what it kept, and a recovery would begin with it."""
    here = await history()
    late, _, bodies = await sharing(here, Hand(T0 + 9 * DAY))
    free = here.stores
    running, go_on = await halted(here)
    await sent(free, bodies)

    class TimesOut(Over):
        times = 2

        async def delete(self, keys: Sequence[str]) -> None | Unknown:
            self.times -= 1
            return Unknown("timed out") if self.times >= 0 else await super().delete(keys)

    vault = Vault({**free, "S3": TimesOut(free["S3"])}, KEYRING, Hand(T0 + 10 * DAY), read_patience_seconds=0.5)
    await vault.publish(late)
    with pytest.raises(Unavailable) as caught:
        await unaffected(vault, late)
    assert "may still hold" not in caught.value.message
    go_on.set()
    await running
    assert on(free, snapshot_key(late.summary.id)) == []


async def test_and_where_one_never_answers_its_name_is_told() -> None:
    here = await history()
    late, doomed, bodies = await sharing(here, Hand(T0 + 9 * DAY))
    await sent(here.stores, bodies)
    for store in here.stores.values():
        del store.objects[doomed]

    class Keeps(Over):
        async def delete(self, keys: Sequence[str]) -> None | Unknown:
            return Unknown("timed out")

    vault = Vault({**here.stores, "S3": Keeps(here.stores["S3"])}, KEYRING, Hand(T0 + 10 * DAY))
    await vault.publish(late)
    with pytest.raises(Unavailable, match="S3 may still hold its manifest"):
        await unaffected(vault, late)


async def test_silence_takes_no_snapshot_away() -> None:
    """Another prune may have let an earlier one go for it already; it stays, and is not reported as taken."""
    here = await history()
    late, _, bodies = await sharing(here, Hand(T0 + 9 * DAY))
    await sent(here.stores, bodies)
    await here.vault().publish(late)
    deaf = {"S1": here.stores["S1"], "S2": NoPacks(here.stores["S2"]), "S3": Away(here.stores["S3"])}
    clock = Passing(T0 + 10 * DAY)
    with pytest.raises(Unavailable, match="not known"):
        await unaffected(Vault(deaf, KEYRING, clock, read_patience_seconds=0.5), late, before=here.stores)
    assert clock.at - T0 - 10 * DAY >= timedelta(minutes=2)  # as long as an upload is waited for
    assert on(here.stores, snapshot_key(late.summary.id)) == ["S1", "S2", "S3"]


async def test_a_marked_manifest_is_carried_to_the_store_that_replaces_another() -> None:
    """What made it superfluous may turn out to be worth nothing."""
    here = await history()
    old = next(key for key in (await prune(here, T0 + 8 * DAY)).marked if key.startswith("snapshots/"))
    joining = MemoryStore("S4")
    staying = [here.stores["S1"], here.stores["S2"]]
    await fill(joining, staying, KEYRING, Codec(KEYRING, LOG), lambda _epoch, _slot: True, prefixes=_VAULT)
    assert old in joining.objects


async def test_a_store_that_hangs_on_deletes_does_not_keep_the_others_full() -> None:
    here = await history()
    marked = (await prune(here, T0 + 8 * DAY)).marked
    assert len(marked) > 5
    asked = 0

    class Hangs(Over):
        async def delete(self, keys: Sequence[str]) -> None | Unknown:
            nonlocal asked
            asked += 1
            clock.at += timedelta(seconds=60)
            return Unknown("timed out")

    here.stores["S1"] = Hangs(here.stores["S1"])
    clock = Hand(T0 + 10 * DAY)
    report = await Prune(here.stores, KEYRING, clock, Silent(), NARROW, fork_bytes=SEGMENT).run()
    assert report.deleted == {"S2": len(marked), "S3": len(marked)}
    assert "timed out" in report.away["S1"]
    assert any(note.startswith("S1: it does not answer") for note in report.notes)
    assert asked < 10


async def test_a_run_whose_stores_are_replaced_deletes_nothing_more() -> None:
    """The new three may have been given what it would delete on the old."""
    here = await history()
    marked = (await prune(here, T0 + 8 * DAY)).marked

    async def replaced() -> None:
        raise ReplacedError(Membership(1, ("S1", "S2"), "S3", "S4"))

    clock = Hand(T0 + 10 * DAY)
    work = Prune(here.stores, KEYRING, clock, Silent(), NARROW, fork_bytes=SEGMENT, still_members=replaced)
    with pytest.raises(ReplacedError):
        await work.run()
    assert all(set(marked) <= set(here.objects(name)) for name in here.stores)


async def test_an_author_between_two_sentences_meets_one_of_them_or_what_was_deleted() -> None:
    """Prune narrows its sentence for a new snapshot; another author listed the wide one, and reads when it is gone."""
    here = await history()
    clock = Hand(T0 + 10 * DAY)
    await prune(here, T0 + 8 * DAY)
    doomed = (await read_marks(here.stores, KEYRING)).doomed()
    olds = [await here.vault().manifest(each.id) for each in here.snapshots]
    first, second = (
        next(old for old in olds if (set(old.pack_keys()) & doomed) - set(but)) for but in ((), olds[0].pack_keys())
    )
    began = Lsn(len(here.wal) - SEGMENT)
    plain, late = dict(here.stores), []
    for old, at in ((first, T0 + 7 * DAY + timedelta(hours=20)), (second, clock.now())):
        _, one, bodies = await here.drafted(at=at, start=began, stop=Lsn(began + 100), share=3)
        await sent(plain, bodies)
        late.append(Manifest(one.summary, one.files, (), [*one.names, *old.names], [*one.places, *old.places]))
    listed, taken_back = asyncio.Event(), asyncio.Event()

    class Slow(Over):
        async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
            if key.endswith("-now") and not taken_back.is_set():
                listed.set()
                await taken_back.wait()
            return await super().read(key, start=start, length=length)

    async def author() -> None:
        vault = Vault({name: Slow(store) for name, store in plain.items()}, KEYRING, clock)
        await vault.publish(late[1])
        await unaffected(vault, late[1])

    sentences: list[str] = []
    authors: list[asyncio.Task[None]] = []

    class Prunes(Over):
        async def create(self, key: str, body: bytes) -> Made | Unknown:
            if key.endswith("-now") and key not in sentences:
                sentences.append(key)
                if len(sentences) == 1:
                    await Vault(plain, KEYRING, clock).publish(late[0])
                else:
                    authors.append(asyncio.create_task(author()))
                    await listed.wait()
            return await super().create(key, body)

        async def delete(self, keys: Sequence[str]) -> None | Unknown:
            answer = await super().delete(keys)
            if list(keys) == sentences[:1] and not on(plain, sentences[0]):
                taken_back.set()
                await asyncio.gather(*authors, return_exceptions=True)
            return answer

    stores = {name: Prunes(store) for name, store in plain.items()}
    await Prune(stores, KEYRING, clock, Silent(), NARROW, fork_bytes=SEGMENT).run()
    assert len(sentences) == 2
    (ended,) = await asyncio.gather(*authors, return_exceptions=True)
    assert isinstance(ended, Unavailable) or all(len(on(plain, key)) >= 2 for key in late[1].pack_keys())

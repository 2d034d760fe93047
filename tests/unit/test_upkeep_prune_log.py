"""A snapshot that took longer than the window of retention, while others came: its log stays, or it is withdrawn."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tests.stored import CLOCK, KEYRING, NAMES, SEGMENT, T0, Leading, Stored, keys_of, stored, unaffected
from tests.unit.test_upkeep_prune import DAY, NARROW, Hand, history, prune, restorable
from tests.unit.test_upkeep_prune_holes import Over, Passing, halted, on, sent

from threefold.kernel.errors import Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.quorum import keys
from threefold.quorum.timelines import seal_history
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Unknown
from threefold.upkeep.scrub import Scrub
from threefold.upkeep.survey import Surveyor
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Manifest, snapshot_key

FIRST = keys.segment_key(1, 0)


async def slow(here: Stored) -> Manifest:
    """It began with the log's first byte and ends a day after the last of those that came and went meanwhile."""
    clock = Hand(T0 + 9 * DAY)
    _, manifest, bodies = await here.drafted(
        at=clock.now(), start=Lsn(100), stop=Lsn(len(here.wal) - 100), fresh=3, share=0
    )
    await sent(here.stores, bodies)
    return manifest


async def test_who_publishes_before_the_deleting_keeps_its_log() -> None:
    here = await history()
    late = await slow(here)
    assert FIRST in (await prune(here, T0 + 8 * DAY)).marked
    await here.vault().publish(late)
    await unaffected(here.vault(), late)
    report = await prune(here, T0 + 10 * DAY)
    assert FIRST in report.spared
    await restorable(here, late.summary, copies=3)
    await prune(here, T0 + 12 * DAY)
    await restorable(here, late.summary, copies=3)


async def test_who_publishes_while_the_log_is_deleted_is_withdrawn() -> None:
    here = await history()
    late = await slow(here)
    running, go_on = await halted(here)
    await here.vault().publish(late)
    with pytest.raises(Unavailable, match="deleting the log that this snapshot begins with"):
        await unaffected(here.vault(), late)
    go_on.set()
    await running
    assert on(here.stores, FIRST) == []
    assert on(here.stores, snapshot_key(late.summary.id)) == []


async def test_who_publishes_when_the_log_is_deleted_is_withdrawn() -> None:
    """The sentence was carried out and taken back: only the log itself can tell."""
    here = await history()
    late = await slow(here)
    running, go_on = await halted(here)
    go_on.set()
    await running
    assert keys_of(here.stores, "prune/") == []
    await here.vault().publish(late)
    with pytest.raises(Unavailable, match=r"segments of the log went away .*, wal/"):
        await unaffected(here.vault(), late)
    assert on(here.stores, snapshot_key(late.summary.id)) == []


class NoWal(Over):
    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("timed out") if key.startswith("wal/") else await super().read(key, start=start, length=length)


async def test_silence_withdraws_nothing() -> None:
    here = await history()
    late = await slow(here)
    deaf: Mapping[str, MemoryStore] = {name: NoWal(store) for name, store in here.stores.items()}
    await here.vault().publish(late)
    vault = Vault(deaf, KEYRING, Passing(T0 + 9 * DAY), read_patience_seconds=0.5)
    with pytest.raises(Unavailable, match="not known to be a recovery point"):
        await unaffected(vault, late, before=here.stores)
    assert on(here.stores, snapshot_key(late.summary.id)) == ["S1", "S2", "S3"]


async def test_what_lost_its_log_makes_nothing_superfluous() -> None:
    """Its author died before he could withdraw it."""
    here = await history()
    late = await slow(here)
    running, go_on = await halted(here)
    go_on.set()
    await running
    await here.vault().publish(late)
    another = await slow(here)
    await here.vault().publish(another)
    report = await prune(here, T0 + 11 * DAY)
    whole = [each for each in here.snapshots if each.id in report.kept]
    assert len(whole) >= 2
    assert late.summary.id in report.kept
    await prune(here, T0 + 13 * DAY)
    for each in whole:
        await restorable(here, each)


async def test_a_segment_that_two_stores_lack_is_not_lost_and_not_sure() -> None:
    here = await history()
    late = await slow(here)
    for name in ("S1", "S2"):
        del here.stores[name].objects[FIRST]
    await here.vault().publish(late)
    vault = Vault(here.stores, KEYRING, Passing(T0 + 9 * DAY), read_patience_seconds=0.5)
    with pytest.raises(Unavailable, match="not known whether they are on two stores"):
        await unaffected(vault, late)
    assert on(here.stores, snapshot_key(late.summary.id)) == ["S1", "S2", "S3"]


async def forked(fork: int, before: int, after: int) -> Stored:
    """Timeline 1 wrote ``before`` bytes, and timeline 2 went on from ``fork``; a snapshot of each."""
    here = await stored(epochs=0)
    first = await Leading(here.stores).begin()
    await here.write(first, before)
    await first.end()
    at = Lsn(SEGMENT + 100)
    await here.snapshot(at=T0, start=at, stop=Lsn(at + 200), share=0)
    history_file = f"1\t{Lsn(fork)}\tno recovery target specified\n".encode()
    for store in here.stores.values():
        await store.create(keys.timeline_key(2), seal_history(KEYRING, 2, history_file))
    here.wal = here.wal[:fork]
    second = await Leading(here.stores, timeline=2).begin(Lsn(fork))
    await here.write(second, after)
    await second.end()
    await here.snapshot(at=T0 + DAY, start=Lsn(fork + 10), stop=Lsn(fork + 20), share=0, timeline=2)
    return here


@pytest.mark.parametrize(
    ("fork", "before", "after"),
    [
        (2 * SEGMENT, 2 * SEGMENT, 2 * SEGMENT + 50),
        (2 * SEGMENT, 2 * SEGMENT, 50),
        (2 * SEGMENT - 700, 2 * SEGMENT + 50, 700),
        (2 * SEGMENT - 700, 2 * SEGMENT + 50, 3 * SEGMENT),
        (2 * SEGMENT + 300, 2 * SEGMENT + 300, SEGMENT),
    ],
    ids=[
        "at a boundary",
        "at a boundary, quiet",
        "within a whole segment, quiet",
        "within a whole segment",
        "in slots",
    ],
)
async def test_across_a_fork_nothing_that_is_there_is_missed(fork: int, before: int, after: int) -> None:
    here = await forked(fork, before, after)
    await here.same_log()
    for summary in here.snapshots:
        manifest = await here.vault().manifest(summary.id)
        vault = Vault(here.stores, KEYRING, Passing(T0 + 2 * DAY), read_patience_seconds=0.5)
        await unaffected(vault, manifest)
        await restorable(here, summary)
    report = await prune(here, T0 + 40 * DAY)
    assert set(report.kept) == {each.id for each in here.snapshots}
    scrubbed = await Scrub(here.stores, KEYRING, CLOCK, HealthBook(NAMES), Silent()).everything()
    assert scrubbed.findings == []


@pytest.mark.parametrize("lacking", [("S1", "S2"), ("S1", "S2", "S3")])
async def test_across_a_fork_what_is_missing_is_missed(lacking: tuple[str, ...]) -> None:
    here = await forked(2 * SEGMENT, 2 * SEGMENT, 3 * SEGMENT)
    for name in lacking:
        del here.stores[name].objects[keys.segment_key(2, 1)]
    vault = Vault(here.stores, KEYRING, Passing(T0 + 2 * DAY), read_patience_seconds=0.5)
    with pytest.raises(Unavailable, match="went away" if len(lacking) == 3 else "not known whether"):
        await unaffected(vault, await vault.manifest(here.snapshots[0].id))


async def test_another_prune_that_deletes_its_log_endangers_a_snapshot() -> None:
    """Listed and read back a moment ago, and yet nothing is let go for it."""
    here = await history()
    late = await slow(here)
    running, go_on = await halted(here)
    await here.vault().publish(late)
    looked = await Surveyor(here.stores, KEYRING, Hand(T0 + 10 * DAY), Silent(), NARROW, fork_bytes=SEGMENT).look()
    assert late.summary.id in looked.survey.endangered
    go_on.set()
    await running

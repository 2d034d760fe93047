"""A scrub of stores that read badly: what is spoilt on its way, breaks off or does not answer is not damaged yet."""

from __future__ import annotations

from collections.abc import Sequence

from tests.scrubbing import damage, scrub
from tests.stored import T0, Stored, flip, keys_of, stored

from threefold.kernel.lsn import Lsn
from threefold.quorum import keys
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Unknown, Unreadable


class Hasty(MemoryStore):
    """Spoils the bytes of one key on their way, a number of times; or says that it cannot read them."""

    spoils: str = ""
    times = 1
    deleted = 0
    unreadable = False

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        body = await super().read(key, start=start, length=length)
        if key == self.spoils and isinstance(body, bytes):
            if self.unreadable:
                return Unreadable("S2 answered 500 ObjectDamaged")
            if self.times > 0:
                self.times -= 1
                return flip(body, len(body) - 1)
        return body

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        self.deleted += len(keys)
        self.unreadable = False
        return await super().delete(keys)


def hasty(here: Stored) -> Hasty:
    store = Hasty("S2")
    store.objects = here.stores["S2"].objects
    here.stores["S2"] = store
    return store


async def test_bytes_that_were_spoilt_on_their_way_are_no_reason_to_delete() -> None:
    here = await stored()
    store = hasty(here)
    store.spoils = keys.segment_key(1, 1)
    (finding,) = (await scrub(here)).findings
    assert "reads whole now" in finding.why
    assert store.deleted == 0


async def test_a_store_that_says_itself_that_it_is_damaged_is_believed() -> None:
    here = await stored()
    store = hasty(here)
    store.spoils, store.unreadable = keys.segment_key(1, 1), True
    (finding,) = (await scrub(here)).findings
    assert finding.mended
    assert store.deleted == 1


class BreaksOff(MemoryStore):
    """As our server on a rotten disk: a bad block shows in the status only where it is the first one asked for."""

    key, block = "", 4096

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        body = await super().read(key, start=start, length=length)
        bad = len(self.objects.get(key, b"")) * 2 // 3 // self.block
        if key != self.key or not isinstance(body, bytes) or not body:
            return body
        blocks = range(start // self.block, (start + len(body) - 1) // self.block + 1)
        if blocks[0] == bad:
            return Unreadable("S2 answered 500 ObjectDamaged")
        return Unknown("S2 sent half an answer") if bad in blocks else body

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        self.key = ""
        return await super().delete(keys)


async def test_a_large_object_that_breaks_off_in_its_middle_is_asked_where() -> None:
    here = await stored(snapshots=0)
    await here.snapshot(at=T0, start=Lsn(100), stop=Lsn(300), fresh=200, share=0)
    store = BreaksOff("S2")
    store.objects = here.stores["S2"].objects
    here.stores["S2"] = store
    (store.key,) = keys_of(here.stores, "packs/")
    (finding,) = (await scrub(here)).findings
    assert (finding.what, finding.mended) == ("damaged", True)
    assert "ObjectDamaged" in finding.why


class Down(MemoryStore):
    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("down") if key != keys.FORMAT else await super().read(key)


async def test_a_store_that_does_not_answer_lacks_nothing_and_loses_nothing() -> None:
    here = await stored()
    down = Down("S3")
    down.objects = here.stores["S3"].objects
    here.stores["S3"] = down
    (pack, *_) = keys_of(here.stores, "packs/")
    for name in ("S1", "S2"):
        damage(here.stores[name], pack, "cut")
    report = await scrub(here)
    assert report.lost == []  # S3 may have it
    assert report.away == {"S3": "down"}
    assert {each.store for each in report.findings if each.key == pack} == {"S1", "S2"}

"""What is left of a log behind damage on two stores: also after a store was replaced, and after a key was rotated."""

from __future__ import annotations

import pytest
from tests.recovering import CLOCK

from threefold.kernel.errors import Damaged, Refused
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.protect.founding import find_or_found
from threefold.quorum import keys
from threefold.quorum.history import encode_start
from threefold.quorum.members import Format
from threefold.quorum.membership import FOUNDED, Membership
from threefold.quorum.objects import Codec, Header, Kind
from threefold.quorum.reader import read_extent
from threefold.recover.remains import read_remains
from threefold.stores.memory import MemoryStore

OLD, NEW = bytes(32), bytes([1]) * 32
WRITER = "0" * 32
BEGIN = 16 * 2**20
DAMAGED_SLOT = 4


def _stores(ring: Keyring, membership: Membership, names: tuple[str, ...]) -> dict[str, MemoryStore]:
    """Five slots of a hundred bytes, one of them whole nowhere."""
    codec = Codec(ring, 7)
    start = Header(Kind.START, 1, 0, WRITER, 1, Lsn(BEGIN), Lsn(BEGIN))
    log = [codec.encode(start, encode_start((), b"", membership))]
    for slot in range(1, 6):
        at = Lsn(BEGIN + 100 * (slot - 1))
        header = Header(Kind.ENTRY, 1, slot, WRITER, 1, at, Lsn(at + 100), log[-1].digest)
        log.append(codec.encode(header, b"x" * 100))
    stores = {name: MemoryStore(name) for name in names}
    for name, store in stores.items():
        store.objects[keys.FORMAT] = Format(7, ring.founding, name).encode()
        store.objects[keys.epoch_key(1)] = b'{"writer": "w"}'
        for slot, entry in enumerate(log):
            body = entry.body if slot != DAMAGED_SLOT else entry.body[:-3] + b"bad"
            store.objects[keys.slot_key(1, slot)] = body
    return stores


@pytest.mark.parametrize("ring", [Keyring(OLD), Keyring(OLD, NEW)], ids=["one key", "rotated"])
@pytest.mark.parametrize(
    ("membership", "names"),
    [(FOUNDED, ("S1", "S2", "S3")), (Membership(2, ("S1", "S2", "S4"), "S3", "S4"), ("S1", "S2", "S4"))],
    ids=["founded", "replaced"],
)
async def test_it_reaches_up_to_the_damage(ring: Keyring, membership: Membership, names: tuple[str, ...]) -> None:
    stores = _stores(ring, membership, names)
    with pytest.raises(Damaged):
        await read_extent(stores, ring, CLOCK, patience=5)
    remains = await read_remains(stores, ring, CLOCK, [], lambda _: None)
    assert remains is not None
    assert remains.end == BEGIN + 100 * (DAMAGED_SLOT - 1)


@pytest.mark.parametrize("left", ["wal/00000001/0000000001", "snapshots/1", "packs/1", "timelines/00000002"])
async def test_no_new_log_is_begun_over_what_a_thief_left(left: str) -> None:
    """Formats and claims are not locked. A new log would hide the rest from every recovery."""
    stores = {name: MemoryStore(name) for name in ("S1", "S2", "S3")}
    stores["S2"].objects[left] = b"locked"
    with pytest.raises(Refused, match=r"S2 holds \w+/ of a log, and no store holds its format") as refused:
        await find_or_found(
            stores,
            Keyring(OLD),
            CLOCK,
            lambda *_, **__: None,
            system_identifier=7,
            wal_segment_bytes=16 * 2**20,
            wrapped_key=None,
        )
    assert "threefold recover" in refused.value.hint
    assert {name: set(store.objects) for name, store in stores.items()} == {"S1": set(), "S2": {left}, "S3": set()}

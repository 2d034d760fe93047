"""What filling may put into the log's slots: create-once places, where a wrong object stays for good."""

from __future__ import annotations

from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.protect.fill import fill
from threefold.quorum import keys
from threefold.quorum.check import counting
from threefold.quorum.history import Span
from threefold.quorum.objects import Codec, Header, Kind, LogObject
from threefold.stores.memory import MemoryStore

_KEYRING = Keyring(bytes(32))
_CODEC = Codec(_KEYRING, 7)


def _entry(epoch: int, slot: int) -> LogObject:
    return _CODEC.encode(Header(Kind.ENTRY, epoch, slot, "0a" * 16, 1, Lsn(8 * slot), Lsn(8 * slot + 8)), b"8 bytes.")


def _seal(epoch: int, slot: int) -> LogObject:
    return _CODEC.encode(Header(Kind.SEAL, epoch, slot, "0b" * 16))


async def test_an_entry_that_counts_goes_before_a_seal_and_behind_the_end_only_seals_are_copied() -> None:
    """A take-over sealed one store and found the entry on the two others, one of which lost its disk since."""
    sealed, whole, emptied = MemoryStore("S1"), MemoryStore("S2"), MemoryStore("S3")
    last = 5
    sealed.objects |= {keys.slot_key(1, slot): _seal(1, slot).body for slot in (last, last + 1)}
    whole.objects |= {keys.slot_key(1, slot): _entry(1, slot).body for slot in (last, last + 2)}
    counts = counting((Span(1, last, 1, Lsn(0), Lsn(48)),), 2, lambda: 0)
    done = await fill(emptied, [sealed, whole], _KEYRING, _CODEC, counts)
    assert done.complete
    assert emptied.objects == {
        keys.slot_key(1, last): _entry(1, last).body,
        keys.slot_key(1, last + 1): _seal(1, last + 1).body,
    }

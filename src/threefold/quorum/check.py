"""Whether bytes that claim to be one of the log's objects are that object, whole; and which entries count. Pure.

Before a copy is made from a copy it is opened: what is created once cannot be replaced by a better one (invariant 6).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from threefold.kernel import wraps
from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring
from threefold.quorum import keys
from threefold.quorum.history import History, wal_of
from threefold.quorum.notices import decode_notice
from threefold.quorum.objects import Codec, Kind, LogObject
from threefold.quorum.timelines import open_history

Counts = Callable[[int, int], bool]

_BY_CODEC = (f"{keys.LOG}/", f"{keys.WAL}/", f"{keys.BUNDLES}/")


def check_log_object(
    key: str, body: bytes, keyring: Keyring, codec: Codec, *, segment_bytes: int = keys.SEGMENT_BYTES
) -> LogObject | None:
    """Raises Damaged for an object that is not what its key says; the opened one where it is an entry, seal, segment.

    Of a claim only that it reads as one, of a wrapped key that it names itself: neither is sealed with our key.
    """
    if key.startswith(_BY_CODEC):
        found = codec.open(body)
        header = found.header
        if header.kind is Kind.SEGMENT:
            place = keys.segment_key(header.timeline, header.start // segment_bytes)
        elif header.kind is Kind.BUNDLE:
            place = keys.bundle_key(header.epoch, header.slot)
        else:
            place = keys.slot_key(header.epoch, header.slot)
        if key != place:
            raise Damaged(f"{key} holds the object of another place, {place}")
        if header.kind not in {Kind.SEAL, Kind.BUNDLE} and len(wal_of(found)) != header.end - header.start:
            raise Damaged(f"{key} holds another number of bytes than it says")
        return found
    if key.startswith(f"{keys.TIMELINES}/"):
        open_history(keyring, keys.last_number(key) or 0, body)
    elif key.startswith(f"{keys.EPOCHS}/"):
        _field(key, body, "writer")
    elif key.startswith(f"{keys.MEMBERS}/"):
        decode_notice(body, key, keyring)
    elif key.startswith(f"{keys.WRAPPED}/") and wraps.describe(body).key_id != keys.wraps_key(key):
        raise Damaged(f"{key} is the wrapped key of another name")
    return None


def counting(spans: History, epoch: int, settled_slot: Callable[[], int]) -> Counts:
    """Whether an entry counts: within an epoch that is over, or settled in ours."""
    last_slots: Mapping[int, int] = {span.epoch: span.last_slot for span in spans}

    def counts(of_epoch: int, slot: int) -> bool:
        return slot <= (settled_slot() if of_epoch == epoch else last_slots.get(of_epoch, -1))

    return counts


def fits_slot(found: LogObject, counts: Counts) -> bool:
    """Whether a copy of it may be put into its slot on a store that has nothing there.

    Where an entry counts, a seal would take the place of its second copy; elsewhere only seals may be.
    """
    return counts(found.header.epoch, found.header.slot) is not found.is_seal


def _field(key: str, body: bytes, name: str) -> str:
    try:
        return str(json.loads(body)[name])
    except (ValueError, KeyError, TypeError):
        raise Damaged(f"{key} is not readable") from None

"""Where things lie in each store. Numbers are fixed-width hexadecimal so that listings sort.

format                        who this log is, and this store's incarnation
keys/{key id}[-{suffix}]      the master keys, wrapped: one object for each way to open them
epochs/{epoch}                who claimed it
log/{epoch}/{slot}            entry or seal
bundles/{epoch}/{number}      many small entries in one object, for readers (bundles.py)
wal/{timeline}/{segment}      16 MiB of the log in one object; segment = LSN >> 24
timelines/{timeline}          PostgreSQL's .history file
members/{generation}          the notice that a store was replaced, or is being replaced
snapshots/{id}, packs/{id}    the vault's
beacons/{who}                 overwritten; liveness only
"""

from __future__ import annotations

from typing import Final

FORMAT: Final = "format"
EPOCHS: Final = "epochs"
LOG: Final = "log"
BUNDLES: Final = "bundles"
WAL: Final = "wal"
TIMELINES: Final = "timelines"
MEMBERS: Final = "members"
WRAPPED: Final = "keys"

SEGMENT_BYTES: Final = 16 * 1024 * 1024
BUNDLE_SLOTS: Final = 256


def epoch_key(epoch: int) -> str:
    return f"{EPOCHS}/{epoch:08x}"


def log_prefix(epoch: int) -> str:
    return f"{LOG}/{epoch:08x}"


def slot_key(epoch: int, slot: int) -> str:
    return f"{LOG}/{epoch:08x}/{slot:012x}"


def bundle_prefix(epoch: int) -> str:
    return f"{BUNDLES}/{epoch:08x}"


def bundle_key(epoch: int, number: int) -> str:
    return f"{BUNDLES}/{epoch:08x}/{number:010x}"


def wal_prefix(timeline: int) -> str:
    return f"{WAL}/{timeline:08x}"


def segment_key(timeline: int, segment: int) -> str:
    return f"{WAL}/{timeline:08x}/{segment:010x}"


def segment_of(key: str) -> tuple[int, int] | None:
    """(timeline, number) of a key in wal/; None for any other."""
    parts = key.split("/")
    try:
        return (int(parts[1], 16), int(parts[2], 16)) if parts[0] == WAL and len(parts) == 3 else None
    except ValueError:
        return None


def segment_start(key: str, segment_bytes: int) -> int | None:
    """Where the log's segment under that key begins; None for any other key."""
    at = segment_of(key)
    return at[1] * segment_bytes if at is not None else None


def timeline_key(timeline: int) -> str:
    return f"{TIMELINES}/{timeline:08x}"


def wrapped_key_key(key_id: str, which: str = "") -> str:
    """An object for each way to open a master key: the first under the key's id, later ones with a suffix as well."""
    return f"{WRAPPED}/{key_id}-{which}" if which else f"{WRAPPED}/{key_id}"


def wraps_key(key: str) -> str:
    """The id of the master key that an object under `WRAPPED` wraps."""
    return key.rpartition("/")[2].partition("-")[0]


def notice_key(generation: int) -> str:
    return f"{MEMBERS}/{generation:08x}"


def last_number(key: str) -> int | None:
    """The number a key ends with; None for a key that is not ours."""
    tail = key.rpartition("/")[2]
    try:
        return int(tail, 16)
    except ValueError:
        return None

"""What can still be recovered when something is whole on no store: the newest recovery point. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from threefold.kernel.lsn import Lsn
from threefold.postgres.wal import segment_no, segment_start
from threefold.quorum import keys
from threefold.quorum.history import Piece
from threefold.vault.manifest import Summary


@dataclass(frozen=True, slots=True)
class Point:
    """``snapshot`` replayed up to ``lsn``."""

    snapshot: str
    lsn: Lsn


def wal_begin(snapshot: Summary) -> Lsn:
    """Where the WAL that a snapshot needs begins: PostgreSQL reads a segment's first page before any other."""
    return segment_start(segment_no(snapshot.start, snapshot.segment_size), snapshot.segment_size)


def newest_point(
    snapshots: Mapping[str, Summary],
    packs_of: Mapping[str, Collection[str]],
    lost: Collection[str],
    pieces: Sequence[Piece],
    segment_bytes: int,
) -> Point | None:
    """``lost`` are keys; ``packs_of`` has the pack keys of every snapshot whose manifest reads."""
    end = pieces[-1].end if pieces else Lsn(0)
    holes = sorted(_holes(lost, pieces, segment_bytes))
    points = []
    for name, packs in packs_of.items():
        if not set(packs).isdisjoint(lost):
            continue
        snapshot = snapshots[name]
        reach = next((start for start, stop in holes if stop > wal_begin(snapshot)), end)
        if reach >= snapshot.stop:
            points.append(Point(name, Lsn(reach)))
    return max(points, key=lambda each: (each.lsn, snapshots[each.snapshot].stop), default=None)


def _holes(lost: Collection[str], pieces: Sequence[Piece], segment_bytes: int) -> list[tuple[int, int]]:
    """The bytes that lost segments held, as far as they count."""
    holes = []
    for key in lost:
        found = keys.segment_of(key)
        if found is None:
            continue
        timeline, start = found[0], found[1] * segment_bytes
        for piece in pieces:
            one, two = max(piece.start, start), min(piece.end, start + segment_bytes)
            if piece.timeline == timeline and one < two:
                holes.append((int(one), int(two)))
    return holes

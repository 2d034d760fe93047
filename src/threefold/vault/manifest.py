"""A snapshot's manifest: everything a restore needs besides the packs and the WAL, in one immutable object.

     0   4  magic ``3FSN``
     4   1  version, 1
     5   3  zero
     8   4  bytes of the sealed summary
    12   8  bytes of the sealed body
    20   8  random
    28   .  summary: JSON, zstd, sealed (kernel/keys.py)
     .   .  body: JSON, zstd, sealed
Numbers are big-endian. The first 28 bytes are authenticated with both parts. The key is derived for the snapshot's
id; the nonces are the 8 random bytes and 0 (summary) or 1 (body), so two attempts under one id do not share one.

The summary stands apart so that listing the recovery points reads a few hundred bytes of each. The body holds the
files, each with the numbers of its chunks, and the chunk table: base64 of records of name (32), pack (4), offset (4),
stored bytes (4), plain bytes (4); the pack is a number into the list of pack ids.

A manifest is written last: when every pack it names is on two stores and the WAL up to its stop LSN is settled. So a
manifest found on one store alone is as good as one found on three.
"""

from __future__ import annotations

import json
import struct
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import zstandard

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import SEALED_MORE, Keyring
from threefold.kernel.lsn import Lsn
from threefold.vault.chunker import CHUNK_ID_BYTES
from threefold.vault.pack import Place, pack_key

PREFIX: Final = "snapshots"
_MAGIC: Final = b"3FSN\x01\0\0\0"
_HEADER: Final = struct.Struct(">8sIQ8s")
HEADER_BYTES: Final = _HEADER.size
# One read of this many bytes gets the summary of any snapshot with fewer than some hundred tablespaces.
SUMMARY_READ_BYTES: Final = 16 * 1024
_RECORD: Final = struct.Struct(f">{CHUNK_ID_BYTES}sIIII")


@dataclass(frozen=True, slots=True)
class Tablespace:
    """One of the database's tablespaces besides the default ones; ``location`` is where the primary had it."""

    oid: int
    location: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What recovery points are chosen by: the LSNs decide (invariant 2), and ``stopped`` where the target is a time."""

    id: str
    label: str
    system_identifier: int
    major: int  # PostgreSQL's major version
    segment_size: int
    timeline: int
    start: Lsn  # where replay begins
    stop: Lsn  # from here on the restored database is consistent
    started: datetime  # by our clock, for people
    stopped: datetime  # by the primary's clock, read after the stop: no commit before ``stop`` is of a later time
    size: int  # plain bytes
    files: int
    tablespaces: tuple[Tablespace, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. ``path`` as in PostgreSQL's backup manifest; ``chunks`` are numbers into the chunk table."""

    path: str
    mode: int
    size: int
    mtime: int
    crc32c: int
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Directory:
    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole snapshot. ``names[n]`` and ``places[n]`` are chunk n."""

    summary: Summary
    files: tuple[File, ...]
    directories: tuple[Directory, ...]
    names: Sequence[bytes]
    places: Sequence[Place]
    backup_manifest: str = field(repr=False, default="")

    def packs(self) -> list[str]:
        """The packs that hold its chunks, sorted."""
        return sorted({place.pack for place in self.places})

    def pack_keys(self) -> list[str]:
        """The objects that have to be there for it to be restored."""
        return [pack_key(pack) for pack in self.packs()]

    def known(self) -> dict[bytes, Place]:
        return dict(zip(self.names, self.places, strict=True))


def new_snapshot_id(now: datetime, random_hex: str) -> str:
    """Sorts by time, for people."""
    return f"{now:%Y%m%dT%H%M%SZ}-{random_hex[:8]}"


def snapshot_key(snapshot: str) -> str:
    return f"{PREFIX}/{snapshot}"


def encode(manifest: Manifest, keyring: Keyring, random_hex: str) -> bytes:
    """The object's bytes; ``random_hex`` is fresh, at least 16 digits."""
    packs = manifest.packs()
    numbers = {pack: number for number, pack in enumerate(packs)}
    table = b"".join(
        _RECORD.pack(name, numbers[place.pack], place.offset, place.stored, place.size)
        for name, place in zip(manifest.names, manifest.places, strict=True)
    )
    body = {
        "files": [[f.path, f.mode, f.size, f.mtime, f.crc32c, f.chunks] for f in manifest.files],
        "directories": [[d.path, d.mode] for d in manifest.directories],
        "packs": packs,
        "chunks": b64encode(table).decode(),
        "backup_manifest": manifest.backup_manifest,
    }
    parts = [zstandard.compress(json.dumps(part).encode()) for part in (_summary_record(manifest.summary), body)]
    random = bytes.fromhex(random_hex[:16])
    sealer = keyring.sealer(f"vault snapshot {manifest.summary.id}")
    header = _HEADER.pack(_MAGIC, len(parts[0]) + SEALED_MORE, len(parts[1]) + SEALED_MORE, random)
    return header + b"".join(
        sealer.seal(part, nonce=random + number.to_bytes(4, "big"), header=header) for number, part in enumerate(parts)
    )


def decode_summary(snapshot: str, data: bytes, keyring: Keyring) -> Summary | int:
    """The summary out of the object's first bytes; a number says how many are needed. Raises Damaged."""
    header, summary_bytes, _ = _header(snapshot, data)
    if len(data) < HEADER_BYTES + summary_bytes:
        return HEADER_BYTES + summary_bytes
    record = _open(snapshot, keyring, header, 0, data[HEADER_BYTES : HEADER_BYTES + summary_bytes])
    try:
        return _summary(record)
    except (KeyError, ValueError, TypeError):
        raise Damaged(f"the summary of snapshot {snapshot} does not read as one") from None


def decode(snapshot: str, data: bytes, keyring: Keyring) -> Manifest:
    """The whole manifest. Raises Damaged."""
    header, summary_bytes, body_bytes = _header(snapshot, data)
    summary = decode_summary(snapshot, data, keyring)
    if isinstance(summary, int) or len(data) != HEADER_BYTES + summary_bytes + body_bytes:
        raise Damaged(f"the manifest of snapshot {snapshot} is cut short")
    body = _open(snapshot, keyring, header, 1, data[HEADER_BYTES + summary_bytes :])
    packs = body["packs"]
    table = list(_RECORD.iter_unpack(b64decode(body["chunks"])))
    return Manifest(
        summary,
        tuple(
            File(path, mode, size, mtime, crc, tuple(chunks)) for path, mode, size, mtime, crc, chunks in body["files"]
        ),
        tuple(Directory(path, mode) for path, mode in body["directories"]),
        [record[0] for record in table],
        [Place(packs[record[1]], *record[2:]) for record in table],
        body["backup_manifest"],
    )


def _header(snapshot: str, data: bytes) -> tuple[bytes, int, int]:
    if len(data) < HEADER_BYTES:
        raise Damaged(f"the manifest of snapshot {snapshot} is cut short")
    magic, summary_bytes, body_bytes, _ = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise Damaged(f"the manifest of snapshot {snapshot} does not begin as one, or is of a later version")
    return data[:HEADER_BYTES], summary_bytes, body_bytes


def _open(snapshot: str, keyring: Keyring, header: bytes, part: int, sealed: bytes) -> dict[str, Any]:
    nonce = header[-8:] + part.to_bytes(4, "big")
    plain = keyring.sealer(f"vault snapshot {snapshot}").open(sealed, nonce=nonce, header=header)
    record: dict[str, Any] = json.loads(zstandard.decompress(plain))
    return record


def _summary_record(summary: Summary) -> dict[str, Any]:
    return {
        "id": summary.id,
        "label": summary.label,
        "system_identifier": summary.system_identifier,
        "major": summary.major,
        "segment_size": summary.segment_size,
        "timeline": summary.timeline,
        "start": str(summary.start),
        "stop": str(summary.stop),
        "started": summary.started.astimezone(UTC).isoformat(),
        "stopped": summary.stopped.astimezone(UTC).isoformat(),
        "size": summary.size,
        "files": summary.files,
        "tablespaces": [[space.oid, space.location] for space in summary.tablespaces],
    }


def _summary(record: Mapping[str, Any]) -> Summary:
    return Summary(
        id=record["id"],
        label=record["label"],
        system_identifier=record["system_identifier"],
        major=record["major"],
        segment_size=record["segment_size"],
        timeline=record["timeline"],
        start=Lsn.parse(record["start"]),
        stop=Lsn.parse(record["stop"]),
        started=datetime.fromisoformat(record["started"]),
        stopped=datetime.fromisoformat(record["stopped"]),
        size=record["size"],
        files=record["files"],
        tablespaces=tuple(Tablespace(oid, location) for oid, location in record["tablespaces"]),
    )

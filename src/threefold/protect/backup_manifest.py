"""PostgreSQL's own manifest of a base backup, and whether what arrived is what it sent.

JSON (PostgreSQL documentation, "Backup Manifest Format"): each file with size and CRC-32C, the WAL ranges that a
restore needs, and at the very end a SHA-256 of all the text before its own line. A checksum is written as the bytes
of PostgreSQL's little-endian integer; a path that is not UTF-8 as hexadecimal "Encoded-Path".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from threefold.kernel.errors import Damaged

_HINT = "take the snapshot again; if it recurs, look at the primary's memory, disks and network"


@dataclass(frozen=True, slots=True)
class Received:
    """A file as it arrived."""

    size: int
    crc32c: int


def check_received(text: str, received: Mapping[str, Received], *, timeline: int) -> None:
    """Raises Damaged unless exactly the manifest's files arrived, each as it was sent."""
    at = text.rfind('"Manifest-Checksum"')
    try:
        manifest = json.loads(text)
        sent = {_path(entry): entry for entry in manifest["Files"]}
        ranges = [int(each["Timeline"]) for each in manifest["WAL-Ranges"]]
        checksum = str(manifest["Manifest-Checksum"])
    except (ValueError, KeyError, TypeError):
        raise Damaged("the base backup's manifest does not read as one", hint=_HINT) from None
    if sha256(text[:at].encode(errors="surrogateescape")).hexdigest() != checksum:
        raise Damaged("the base backup's manifest does not have the checksum it names", hint=_HINT)
    if ranges != [timeline]:
        raise Damaged(f"the base backup needs WAL of timelines {ranges}, not of {timeline} alone", hint=_HINT)
    for path, entry in sent.items():
        file = received.get(path)
        if file is None:
            raise Damaged(f"{path!r} is in the base backup's manifest and did not arrive", hint=_HINT)
        if file.size != entry["Size"] or _crc32c(path, entry) != file.crc32c:
            raise Damaged(f"{path!r} did not arrive as the primary sent it", hint=_HINT)
    for path in received:
        if path not in sent:
            raise Damaged(f"{path!r} arrived and is not in the base backup's manifest", hint=_HINT)


def _path(entry: Mapping[str, str]) -> str:
    if "Path" in entry:
        return entry["Path"]
    return bytes.fromhex(entry["Encoded-Path"]).decode(errors="surrogateescape")


def _crc32c(path: str, entry: Mapping[str, str]) -> int:
    if entry.get("Checksum-Algorithm") != "CRC32C":
        raise Damaged(f"{path!r} has no CRC-32C in the base backup's manifest", hint=_HINT)
    return int.from_bytes(bytes.fromhex(entry["Checksum"]), "little")

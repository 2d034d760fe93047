"""The record that says: from this LSN on, confirmed changes may be on one disk alone. Pure.

    degraded/{epoch:08x}/{lsn:016x}           declared, before the primary is told anything beyond that LSN
    degraded/{epoch:08x}/{lsn:016x}.drained   and over: everything up to ``end`` is in the log again

Created once, sealed with its key as header, on every store that answers. One is enough to be heard: whoever reads the
log says so. While no store answers, the declaration is in the spool alone (protect/spool.py), and goes to the stores
before anything else does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.kernel.lsn import Lsn

DEGRADED: Final = "degraded"
DRAINED: Final = ".drained"


@dataclass(frozen=True, slots=True)
class Declaration:
    """``end``: None as long as it stands."""

    epoch: int
    timeline: int
    start: Lsn
    at: str  # wall time, for people
    host: str
    switch: int  # under which site it was led
    end: Lsn | None = None

    @property
    def key(self) -> str:
        declared = f"{DEGRADED}/{self.epoch:08x}/{self.start:016x}"
        return declared if self.end is None else declared + DRAINED

    @property
    def sentence(self) -> str:
        return (
            f"changes from {self.start} on may be missing: fewer than two stores answered at {self.at}, and what was "
            f"confirmed since then is on the disk of {self.host}"
        )


def encode(declaration: Declaration, keyring: Keyring, nonce: bytes) -> bytes:
    plain = json.dumps(asdict(declaration)).encode()
    return nonce + keyring.sealer(DEGRADED).seal(plain, nonce=nonce, header=declaration.key.encode())


def decode(body: bytes, key: str, keyring: Keyring) -> Declaration:
    """Raises Damaged."""
    plain = keyring.sealer(DEGRADED).open(body[NONCE_BYTES:], nonce=body[:NONCE_BYTES], header=key.encode())
    try:
        record = json.loads(plain)
        start, end = Lsn(record.pop("start")), record.pop("end")
        return Declaration(**record, start=start, end=None if end is None else Lsn(end))
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{key} is not readable", hint="another version wrote it") from error


def standing(keys: Iterable[str]) -> list[str]:
    """Of the keys that any store lists: declarations that nothing has ended."""
    listed = set(keys)
    return sorted(key for key in listed if not key.endswith(DRAINED) and key + DRAINED not in listed)

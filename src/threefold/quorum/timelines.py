"""PostgreSQL's ``.history`` files in the stores: sealed like everything that recovery relies on (invariants 6 and 8).

Two leaders may put the same file, and the same file must then be the same object; so the nonce is not chance but an
HMAC of what is sealed. One key for all of them is sound because two different files never share a nonce (SIV, the
idea of RFC 5297).
"""

from __future__ import annotations

import hmac

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.quorum.keys import timeline_key

_PURPOSE = "timelines"


def seal_history(keyring: Keyring, timeline: int, content: bytes) -> bytes:
    """The object ``timelines/{timeline}``: nonce, then the sealed file."""
    header = timeline_key(timeline).encode()
    nonce = hmac.digest(keyring.subkey("timelines nonce"), header + b"\0" + content, "sha256")[:NONCE_BYTES]
    return nonce + keyring.sealer(_PURPOSE).seal(content, nonce=nonce, header=header)


def open_history(keyring: Keyring, timeline: int, body: bytes) -> bytes:
    """The file as PostgreSQL wrote it. Raises Damaged."""
    if len(body) < NONCE_BYTES:
        raise Damaged(f"the history of timeline {timeline} is cut short")
    nonce, sealed = body[:NONCE_BYTES], body[NONCE_BYTES:]
    return keyring.sealer(_PURPOSE).open(sealed, nonce=nonce, header=timeline_key(timeline).encode())

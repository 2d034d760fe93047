"""Whether bytes that claim to be one of the vault's objects are that object, whole. Pure.

Before a copy is made from a copy (filling a store that was away), it is opened: what is created once cannot be
replaced, so a damaged copy must not be spread (invariant 6).
"""

from __future__ import annotations

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring
from threefold.vault import manifest, pack
from threefold.vault.chunker import ChunkNamer


def check_object(key: str, body: bytes, keyring: Keyring) -> None:
    """Raises Damaged. ``key`` lies under ``packs/`` or ``snapshots/``."""
    prefix, _, name = key.partition("/")
    if prefix == manifest.PREFIX:
        manifest.decode(name, body, keyring)
        return
    if prefix != pack.PREFIX:
        raise Damaged(f"{key} is not one of the vault's objects")
    if not pack.begins_as_pack(body[: pack.HEADER_BYTES]):
        raise Damaged(f"{key} does not begin as a pack, or is of a later version")
    opener, namer = pack.PackOpener(keyring), ChunkNamer(keyring)
    at = pack.HEADER_BYTES
    for chunk, place in opener.index(name, body, len(body)):
        plain = opener.chunk(chunk, place, body[at : at + place.stored])
        if place.offset != at or not namer.is_named(plain, chunk):
            raise Damaged(f"{key} holds a chunk that is not what its index says")
        at += place.stored
    if at != pack.index_begin(body):
        raise Damaged(f"{key} holds bytes that its index does not name")

"""The wrapped copies of the master keys in the stores: looked at, put, and taken away again.

New copies first, on all three stores, read back; then the old ones go, on all three. Interrupted anywhere, what opened
the keys before still does, or what opens them now, or both; doing it again ends it. What goes is what was there before
ours was put: of two who change it at the same time neither takes away what the other has put later, so that always
somebody's copy stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from threefold.kernel import wraps
from threefold.kernel.errors import Damaged, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.wraps import Described
from threefold.quorum.keys import WRAPPED, wraps_key
from threefold.quorum.wrapped import replaced
from threefold.stores.confirm import Stored, create_confirmed
from threefold.stores.store import Locked, ObjectStore, Page, Unknown

_AGAIN = "nothing is lost: run the same command again when all three stores answer"


@dataclass(frozen=True, slots=True)
class Copy:
    """One way to open the keys, on one store; ``said`` is what it says of itself."""

    store: str
    key: str
    said: Described | Damaged
    body: bytes = b""
    replaced: bool = False  # another copy says that this one is to go


async def copies_on(store: ObjectStore, keyring: Keyring) -> list[Copy]:
    """Raises Unavailable."""
    page = await store.list(WRAPPED)
    if not isinstance(page, Page):
        reason = page.reason if isinstance(page, Unknown) else "no answer"
        raise Unavailable(f"{store.name} does not answer: {reason}", hint=_AGAIN)
    found = []
    for listed in page.objects:
        body = await store.read(listed.key)
        if isinstance(body, Unknown):
            raise Unavailable(f"{store.name} does not answer: {body.reason}", hint=_AGAIN)
        if isinstance(body, bytes):
            found.append(Copy(store.name, listed.key, _said(listed.key, body), body))
    return _marked(found, keyring)


async def copies(stores: Mapping[str, ObjectStore], keyring: Keyring) -> list[Copy]:
    """Of all three. Raises Unavailable: who changes how a key is opened has to see every store."""
    each_store = await asyncio.gather(*(copies_on(store, keyring) for store in stores.values()))
    return _marked([copy for found in each_store for copy in found], keyring)


def _marked(found: list[Copy], keyring: Keyring) -> list[Copy]:
    """``keyring`` vouches for what is said to be replaced: else a forged copy would end the locks of all others."""
    gone = replaced(((copy.key, copy.body) for copy in found), keyring)
    return [replace(copy, replaced=copy.key in gone) for copy in found]


async def put(stores: Mapping[str, ObjectStore], objects: Mapping[str, bytes]) -> None:
    """On all three, known to be there. Raises Unavailable; what was put then stays, and does no harm."""
    for key, body in objects.items():
        for store, answer in zip(
            stores.values(),
            await asyncio.gather(*(create_confirmed(store, key, body) for store in stores.values())),
            strict=True,
        ):
            if not isinstance(answer, Stored):
                why = answer.reason if isinstance(answer, Unknown) else "something else stands there"
                raise Unavailable(f"{store.name} did not take the wrapped key: {why}", hint=_AGAIN)


async def remove(stores: Mapping[str, ObjectStore], doomed: list[Copy], note: Callable[[str], None]) -> None:
    """From the stores that hold them, seen to be gone, or told of where a retention lock keeps them.

    Raises Unavailable, naming what still opens the old way.
    """
    left = []
    for copy in doomed:
        refused = await stores[copy.store].delete([copy.key])
        if isinstance(refused, Locked):
            note(
                f"{copy.store}: {copy.key} stays under a retention lock until {refused.until:%Y-%m-%d %H:%M} UTC, and "
                "opens the old way until it is removed: run the same command again after that"
            )
            continue
        answer = await stores[copy.store].read(copy.key)
        if isinstance(answer, bytes | Unknown):
            left.append(f"{copy.key} on {copy.store}")
        else:
            note(f"{copy.store}: {copy.key} is gone")
    if left:
        raise Unavailable(f"the old way to open the key still stands: {', '.join(left)}", hint=_AGAIN)


def _said(key: str, body: bytes) -> Described | Damaged:
    try:
        said = wraps.describe(body)
    except Damaged as damage:
        return damage
    return said if said.key_id == wraps_key(key) else Damaged("it is the wrapped key of another name")

"""Which wrapped keys are worth nothing any more, because a newer one says so that our keys vouch for.

They are removed from every store; where a retention lock keeps one, or a store was away, it must not be copied back to
the others, nor its lock be made longer.
"""

from __future__ import annotations

from collections.abc import Iterable

from threefold.kernel import wraps
from threefold.kernel.keys import Keyring
from threefold.quorum.keys import WRAPPED, wraps_key
from threefold.stores.store import ObjectStore, Page


def replaced(copies: Iterable[tuple[str, bytes]], keyring: Keyring) -> set[str]:
    """``copies``: key and bytes. Nothing is replaced by what an older key vouches for: that one may be stolen."""
    place = {key_id: number for number, key_id in enumerate(keyring.ids)}
    gone: set[str] = set()
    for key, body in copies:
        if not wraps.vouched(body, keyring):
            continue
        said = wraps.describe(body)
        if said.key_id == wraps_key(key):
            gone |= {old for old in said.replaces if place.get(wraps_key(old), len(place)) <= place[said.key_id]}
    return gone


async def replaced_on(stores: Iterable[ObjectStore], keyring: Keyring) -> set[str]:
    """As far as the stores say so: what a silent one replaces counts as needed."""
    found: list[tuple[str, bytes]] = []
    for store in stores:
        page = await store.list(WRAPPED)
        for listed in page.objects if isinstance(page, Page) else ():
            body = await store.read(listed.key)
            if isinstance(body, bytes):
                found.append((listed.key, body))
    return replaced(found, keyring)

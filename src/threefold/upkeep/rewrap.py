"""The steps of `threefold keys rotate` and `split`: what is wrapped anew, for whom, and what goes then.

Two things are called rotation. A new passphrase or new shares change how the same keys are opened: only objects under
``keys/`` change. A new master key is *prepared* first (it reads, it does not seal), then put into force; an epoch has
one key, so it seals from the next epoch on (docs/adr/0011-keys.md). The new wrapped copy holds all keys.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from threefold.kernel import shares, wraps
from threefold.kernel.errors import BadInput, Damaged, Refused
from threefold.kernel.keys import KEY_BYTES, Keyring, new_master
from threefold.kernel.shares import Opened
from threefold.kernel.wraps import Opener, WrongOpener
from threefold.quorum.keys import wrapped_key_key
from threefold.quorum.majority import QUORUM
from threefold.stores.store import ObjectStore
from threefold.upkeep.wrapped import Copy, put, remove


@dataclass(frozen=True, slots=True)
class Split:
    """Three shares that were made just now, and what two of them give."""

    opener: Opened
    shares: list[str] = field(repr=False)


def new_split() -> Split:
    secret = secrets.token_bytes(KEY_BYTES)
    number, words = shares.split(secret)
    if shares.combine(words[1:]).secret != secret:  # what is handed out has been tried
        raise Damaged("the shares do not give back what was split")
    return Split(Opened(number, secret), words)


def prepared(keyring: Keyring) -> Keyring:
    """With one more key, or as it is where one is prepared already (a rotation that was interrupted goes on)."""
    if keyring.prepared:
        return keyring
    return keyring.followed_by(new_master(secrets.token_bytes, keyring.ids))


def none_newer(there: Sequence[Copy], keyring: Keyring) -> None:
    """That we hold every key that is wrapped there: else a copy of ours would take the place of one that holds more.

    A key that we do not hold cannot vouch for itself. Two stores are believed: one may have forged it, and what lies on
    one alone has sealed nothing yet (`stands`). Raises Refused.
    """
    unknown: dict[str, set[str]] = {}
    for copy in there:
        for key_id in () if isinstance(copy.said, Damaged) else copy.said.keys:
            if key_id not in keyring.ids:
                unknown.setdefault(key_id, set()).add(copy.store)
    newer = [key_id for key_id, stores in unknown.items() if len(stores) >= QUORUM]
    if newer:
        raise Refused(
            f"the stores hold key {newer[-1]} wrapped, and this key file does not: it was rotated on another host",
            hint="use the key file of that host, or write it anew from the stores: threefold keys export",
        )


def has(there: Sequence[Copy], *, by_shares: bool) -> bool:
    """Whether that way to open the keys is in use."""
    used = [copy.said for copy in there if not copy.replaced and not isinstance(copy.said, Damaged)]
    return any((said.split is not None) == by_shares for said in used)


def of_kind(there: Sequence[Copy], opener: Opener) -> list[Copy]:
    """What a new opener of this kind takes the place of; what is damaged opens for nobody."""
    return [copy for copy in there if isinstance(copy.said, Damaged) or wraps.suits(copy.said, opener)]


async def check(there: Sequence[Copy], keyring: Keyring, openers: Sequence[Opener]) -> None:
    """That each opener is the one in use: a slip of the pen would lock the new key for good. Raises BadInput."""
    for opener in openers:
        fitting = [copy for copy in of_kind(there, opener) if not copy.replaced and not isinstance(copy.said, Damaged)]
        failed: WrongOpener | None = None
        for copy in {copy.body: copy for copy in fitting}.values():
            try:
                ring = await asyncio.to_thread(wraps.unwrap, copy.body, opener)
            except WrongOpener as wrong:
                failed = wrong
            else:
                if ring.founding != keyring.founding:
                    raise BadInput("the stores hold the key of another system", hint="check the key file")
                failed = None
                break
        if failed is not None:
            raise failed


def stands(there: Sequence[Copy], keyring: Keyring, stores: Sequence[str]) -> None:
    """That two stores hold the newest key wrapped: before anything is sealed with it. Raises Refused."""
    holding = {
        copy.store
        for copy in there
        if not isinstance(copy.said, Damaged) and wraps.holds(copy.body, keyring, keyring.newest)
    }
    if len(holding) < QUORUM:
        lacking = ", ".join(sorted(set(stores) - holding))
        raise Refused(
            f"{lacking} do not hold key {keyring.newest} wrapped: with this host it would be lost",
            hint="run threefold keys rotate --key again: it goes on where it was interrupted",
        )


def wrapped(keyring: Keyring, opener: Opener, replaces: Sequence[str] = ()) -> bytes:
    """A wrapped copy, which was opened again before it is let go."""
    body = wraps.wrap(keyring, opener, salt=secrets.token_bytes(wraps.SALT_BYTES), replaces=replaces)
    if wraps.unwrap(body, opener).masters() != keyring.masters():
        raise Damaged("the wrapped key does not give back what was wrapped")
    return body


class Rewrap:
    """Puts new wrapped copies into the stores, then takes old ones away. Safe to be interrupted and done again."""

    def __init__(self, stores: Mapping[str, ObjectStore], keyring: Keyring, note: Callable[[str], None]) -> None:
        self._stores = stores
        self._keyring = keyring
        self._note = note

    async def run(self, openers: Sequence[Opener], old: Sequence[Copy]) -> None:
        """Raises Unavailable; see upkeep/wrapped.py for what stands then."""
        gone = sorted({copy.key for copy in old})
        bodies = [await asyncio.to_thread(wrapped, self._keyring, opener, gone) for opener in openers]
        await put(self._stores, {wrapped_key_key(self._keyring.newest, secrets.token_hex(4)): body for body in bodies})
        self._note(f"key {self._keyring.newest} lies in every store, locked anew")
        await remove(self._stores, list(old), self._note)

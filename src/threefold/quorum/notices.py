"""``members/{generation}``: the notice that tells of a change of membership who does not read the log. Pure.

What counts in the log stands in its slot 0s (membership.py). The journal of switches and the intake are decided by two
stores as well, without a slot 0 in sight; reading one for each of their steps would be much. So once a change has
begun, its notice is put on both stores that stay, *before* the store that joins is filled for the last time. Whoever
decided something on two stores of the old three looks afterwards whether one of those two has the notice of a newer
generation:

- it has none: what was decided stood there before the notice, so before the last filling, which took it along;
- it has one: nothing is concluded, and it begins anew with the stores that count now.

Sealed as all that lies there, with its key as header: what does not open tells nothing, neither that something changed
nor that nothing did. The body follows from the change and the key in force, so whoever puts it puts the same; a notice
that is missing (its author died) is put by the next DRaaS server that meets the membership in the log, and by the one
that is about to fill the store that joins for the last time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from threefold.kernel.errors import Damaged, OtherKey, Unavailable
from threefold.kernel.keys import NONCE_BYTES, Keyring, digest, goes_on_under_another
from threefold.quorum.keys import notice_key
from threefold.quorum.majority import QUORUM, STORES
from threefold.quorum.membership import FOUNDED, Membership, decode_membership, encode_membership
from threefold.quorum.requests import Answer, Answers, Ask, Create, Pause, Procedure, Read
from threefold.quorum.view import GRACE_S
from threefold.stores.store import ABSENT

PURPOSE: Final = "notice"
_AGAIN_S: Final = 0.3
_TRIES: Final = 3  # what is damaged is read again: it may have been spoilt on the way
_GRACE_OF_FOUR_S: Final = 1.0


def newest_notice(stores: Iterable[str], keyring: Keyring) -> Procedure[Membership]:
    """The newest membership that any of these stores tells of; FOUNDED where none does. Asked until two have told.

    Raises BadInput where two hold one that a key outside of the ring sealed.

    Of four, two may be the one that leaves and the one that joins, which need not know: the others get more time.
    """
    asked, now = tuple(stores), FOUNDED
    grace = GRACE_S if len(asked) <= STORES else _GRACE_OF_FOUR_S

    def told(answers: Answers) -> bool:
        absent = sum(answer is ABSENT for answer in answers.values())
        readable = sum(notice_in([answer], key, keyring) is not None for answer in answers.values())
        return absent + readable >= QUORUM

    while True:
        key = notice_key(now.generation + 1)
        answers: Answers = yield Ask(tuple(Read(store, key) for store in asked), told, grace)
        found = notice_in(answers.values(), key, keyring)
        if found is not None:
            now = found
        elif told(answers):
            return now
        else:  # who did not answer, or not readably, may have one (invariant 7)
            yield Pause(_AGAIN_S)


def notice_in(answers: Iterable[Answer], key: str, keyring: Keyring) -> Membership | None:
    """The notice under that key, of any store that gives it whole.

    Raises BadInput where two hold one that a key outside of the ring sealed: one may lie, two mean an old key file.
    """
    others: list[str] = []
    for answer in answers:
        if isinstance(answer, bytes):
            try:
                return decode_notice(answer, key, keyring)
            except OtherKey as other:
                others.append(other.key_id)
            except Damaged:
                continue
    if len(others) >= QUORUM:
        raise goes_on_under_another(others[0], keyring)
    return None


def put_notice(membership: Membership, keyring: Keyring, *, on: Sequence[str] = ()) -> Procedure[None]:
    """On both stores that stay; asked until both give it back. (The third one hears of it by being filled.)

    ``on`` other stores, where a next change has begun: of it, others stay.

    Raises Unavailable where one of them holds something else there: it is never replaced, for a delete that comes late
    would take the good one.
    """
    body, key = encode_notice(membership, keyring), notice_key(membership.generation)
    lacking = list(on) or [store for store in membership.stores if store != membership.joining]
    spoilt = 0
    while lacking:
        yield Ask(tuple(Create(store, key, body) for store in lacking))
        answers: Answers = yield Ask(tuple(Read(store, key) for store in lacking))
        said = {store: answers.get(place) for place, store in enumerate(lacking)}
        lacking = [store for store in lacking if notice_in([said[store]], key, keyring) != membership]
        damaged = [store for store in lacking if isinstance(said[store], bytes)]
        spoilt = spoilt + 1 if damaged else 0
        if spoilt >= _TRIES:
            raise Unavailable(
                f"{' and '.join(damaged)} holds a damaged {key}, so a change of the stores is not told there",
                hint="delete this one object there by hand: it is put anew",
            )
        if lacking:
            yield Pause(_AGAIN_S)


def encode_notice(membership: Membership, keyring: Keyring) -> bytes:
    """Sealed, or one store could keep everybody from working. The nonce follows from what is sealed, as SIV does it."""
    key, plain = notice_key(membership.generation), json.dumps(encode_membership(membership), sort_keys=True).encode()
    nonce = digest(keyring.subkey("notice nonce") + plain)[:NONCE_BYTES]
    return nonce + keyring.sealer(PURPOSE).seal(plain, nonce=nonce, header=key.encode())


def decode_notice(body: bytes, key: str, keyring: Keyring) -> Membership:
    """Raises Damaged."""
    plain = keyring.sealer(PURPOSE).open(body[NONCE_BYTES:], nonce=body[:NONCE_BYTES], header=key.encode())
    try:
        found = decode_membership(json.loads(plain))
    except ValueError as error:
        raise Damaged("a notice of a membership is not readable") from error
    if notice_key(found.generation) != key:
        raise Damaged(f"{key} is the notice of another generation")
    return found

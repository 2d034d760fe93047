"""Which stores vote: those that carry the log's ``format`` object. A store that answers without it lost its memory.

A store that was emptied would say "absent" to everything and accept anything; counted, it would undo what two stores
had promised. So it is not a member: it is filled from the others like a new one, and votes from the next epoch on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from threefold.kernel.errors import Damaged
from threefold.quorum import keys
from threefold.quorum.keys import SEGMENT_BYTES
from threefold.quorum.majority import QUORUM
from threefold.quorum.requests import Answer, Answers, Ask, Procedure, Read
from threefold.stores.store import ABSENT, Unknown

VERSION = 1
_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Format:
    """The log's name tag in one store; ``incarnation`` is this store's alone, new when it was filled anew."""

    log: int  # PostgreSQL's system identifier
    key_id: str
    incarnation: str
    segment_bytes: int = SEGMENT_BYTES
    wal_segment_bytes: int = SEGMENT_BYTES  # PostgreSQL's wal_segment_size
    version: int = VERSION

    def encode(self) -> bytes:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, sort_keys=True).encode()

    @classmethod
    def decode(cls, body: bytes) -> Format:
        """Raises Damaged."""
        try:
            found = cls(**json.loads(body))
        except (ValueError, TypeError) as error:
            raise Damaged("the format object is not readable") from error
        if found.version != VERSION:
            raise Damaged(
                f"the log has format version {found.version}, this program knows {VERSION}",
                hint="use the newer program that wrote it",
            )
        return found


@dataclass(frozen=True, slots=True)
class Roll:
    """The stores by what their ``format`` object said."""

    members: Mapping[str, Format]
    strangers: tuple[str, ...]  # answered, and carry no format: new, or emptied
    silent: Mapping[str, str]  # did not answer, or not readably: why


def read_roll(stores: tuple[str, ...]) -> Procedure[Roll]:
    """Ask every store for its format; once two carry one, a third that hangs is taken for silent."""

    def two(answers: Answers) -> bool:
        return sum(isinstance(answer, bytes) for answer in answers.values()) >= QUORUM

    answers: Answers = yield Ask(tuple(Read(store, keys.FORMAT) for store in stores), two, _GRACE_S)
    return roll({store: answers.get(place) for place, store in enumerate(stores)})


def roll(answers: Mapping[str, Answer]) -> Roll:
    members, strangers, silent = {}, [], {}
    for store, answer in answers.items():
        if isinstance(answer, bytes):
            try:
                members[store] = Format.decode(answer)
            except Damaged as damage:
                silent[store] = damage.message
        elif answer is ABSENT:
            strangers.append(store)
        else:
            silent[store] = answer.reason if isinstance(answer, Unknown) else "did not answer"
    return Roll(members, tuple(strangers), silent)

"""What may be deferred, and how it lies in the stores meanwhile.

Deferred is what adds and depends on nothing that may have changed: a new query, a new request, a new interaction, an
answer to a case. Its name is made from its author and its Idempotency-Key (or, without one, its proof, which is used
once): whoever repeats it, on whichever edge, before or after a restart, comes upon the same intake.

Pure.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

from threefold.crm.model.errors import Invalid
from threefold.kernel.errors import Damaged

MOST_BYTES: Final = 128 * 1024  # of one; the longest text that a case takes is a sixth of it
MOST_OF_A_DEVICE: Final = 30
MOST_OF_A_PERSON: Final = 60
MOST_OF_STAFF: Final = 600  # who note down what others tell them
MOST: Final = 5_000
MOST_BYTES_OF_ALL: Final = 64 * 2**20

_ID: Final = r"[0-9a-fA-F-]{36}"
_PATHS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"/api/v1/(?:queries|requests|interactions)",
        rf"/api/v1/(?:queries|requests)/{_ID}/answers",
        r"/report",
        rf"/cases/(?:queries|requests)/{_ID}/answer",
        r"/records/(?:queries|requests|interactions)",
        rf"/records/(?:queries|requests|contacts)/{_ID}/answer",
    )
)
_TYPES: Final = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
_TICK: Final = timedelta(microseconds=1)


def deferrable(method: str, target: str, media_type: str) -> bool:
    """``target``: path and query; what has a query asks for more than to be filed."""
    kind = media_type.partition(";")[0].strip().lower()
    return method == "POST" and kind in _TYPES and any(path.fullmatch(target) for path in _PATHS)


def name_of(user: UUID, key: str, proof: UUID) -> UUID:
    """Of the intake. ``key``: empty where the request had none."""
    said = b"key\0" + key.encode() if key else b"proof\0" + proof.bytes
    return _named(user.bytes + said)


def _named(said: bytes) -> UUID:
    return UUID(bytes=sha256(b"threefold intake\0" + said).digest()[:16], version=5)


@dataclass(frozen=True, slots=True)
class Envelope:
    """One request as it was taken in. ``taken``: also its place among its author's."""

    id: UUID
    user: UUID
    device: UUID | None
    customer: bool
    method: str
    target: str
    media_type: str
    body: bytes
    key: str  # empty: it had none
    proof: UUID
    forget_at: datetime
    taken: datetime
    title: str
    size: int

    @property
    def digest(self) -> bytes:
        return sha256(self.body).digest()

    @property
    def asked(self) -> bytes:
        """What makes two of them the same request."""
        return sha256(b"\0".join((self.method.encode(), self.target.encode(), self.digest))).digest()

    @property
    def filed_under(self) -> str:
        """The key under which the database knows it."""
        return self.key or f"intake:{self.id}"

    def same(self, body: bytes) -> bool:
        """Whether that is another copy of this request, perhaps taken at another time."""
        try:
            other = Envelope.decode(body)
        except Damaged:
            return False
        return (other.id, other.user, other.asked) == (self.id, self.user, self.asked)

    def light(self) -> Envelope:
        """Without the body, to be held in memory."""
        return replace(self, body=b"")

    def encode(self) -> bytes:
        said = asdict(self) | {"body": b64encode(self.body).decode(), "version": 1}
        return json.dumps(said, default=str).encode()

    @classmethod
    def decode(cls, body: bytes) -> Envelope:
        """Raises Damaged."""
        try:
            said: dict[str, Any] = json.loads(body)
            if said.pop("version") != 1:
                raise Damaged("the intake was written by another version", hint="let that version file it")
            for name in ("id", "user", "proof"):
                said[name] = UUID(said[name])
            said["device"] = UUID(said["device"]) if said["device"] not in {None, "None"} else None
            for name in ("taken", "forget_at"):
                said[name] = datetime.fromisoformat(said[name])
            return cls(**said | {"body": b64decode(said["body"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Damaged("the intake is not readable") from error


def chosen(copies: Iterable[bytes]) -> tuple[Envelope, list[Envelope]]:
    """Of the copies that stores gave: the request that most of them hold, and of those the one taken first.

    And what else was sent under the same key, each once, under a name of its own: one of them may be what somebody was
    told of, while the store that would tell is away; so it is not dropped, but shown. Raises Damaged where none is
    readable.
    """
    found: list[Envelope] = []
    for body in copies:
        try:
            found.append(Envelope.decode(body))
        except Damaged:
            continue
    if not found:
        raise Damaged("no copy of the intake is readable")
    asked = [each.asked for each in found]
    found.sort(key=lambda each: (-asked.count(each.asked), each.taken, each.asked))
    others = {each.asked: each for each in found if each.asked != found[0].asked}
    return found[0], [replace(each, id=_named(each.id.bytes + each.asked)) for each in others.values()]


def taken_after(now: datetime, before: Iterable[datetime]) -> datetime:
    """After all that its author sent before, whatever the clocks of two edges say."""
    return max([now, *(each + _TICK for each in before)])


def title_of(media_type: str, body: bytes) -> str:
    """What people know it by: its subject, or how it begins."""
    try:
        text = body.decode()
        said: Any = (
            json.loads(text) if media_type.startswith("application/json") else dict(parse_qsl(text, max_num_fields=200))
        )
        words = " ".join(str(said.get("subject") or said.get("body") or "").split())
    except (ValueError, AttributeError, RecursionError):
        words = ""
    return words if len(words) <= 80 else words[:79] + "…"


def check_same(mine: Envelope, stands: Envelope) -> None:
    """Raises Invalid where the key was used for another request."""
    if (mine.user, mine.asked) != (stands.user, stands.asked):
        raise Invalid(
            "this Idempotency-Key was used for another request",
            {"Idempotency-Key": "used before, with another address or body"},
            hint="make a new key for each change",
        )

"""Pages of a list, forwards and backwards.

A page goes on after the last record of the one before, or ends before the first of the one after: by that record's
place in the order and its id (keyset). Whatever was changed in between, no record is skipped or shown twice for it, and
page 1000 costs as much as page 1. The way back is the same walk along the same index, from the other end.

A page that turns out empty, because all that lay there has gone, still has a way back: to where it was looked for, that
place itself included (`Place.at`), since nothing that lies there has been shown.

Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, LiteralString
from uuid import UUID

from threefold.kernel.errors import BadInput

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A record's: the sort it is in, its value there (as PostgreSQL spells it) and its id.

    ``at``: the record itself is on the page that begins, or ends, here.
    """

    sort: str
    value: str | None
    id: UUID
    at: bool = False

    def encoded(self) -> str:
        parts = [self.sort, self.value, str(self.id), *(["at"] if self.at else [])]
        packed = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
        return base64.urlsafe_b64encode(packed.encode()).decode().rstrip("=")


def place(text: str, sort: str) -> Place:
    """A cursor's; refused if it is none of ours, or of a list in another order."""
    try:
        packed = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        of, value, record, *more = packed
        if not (isinstance(of, str) and isinstance(record, str) and (value is None or isinstance(value, str))):
            raise ValueError
        if "\0" in (value or "") or more not in ([], ["at"]):
            raise ValueError
        found = Place(of, value, UUID(record), at=bool(more))
    except (ValueError, TypeError, AttributeError, binascii.Error, UnicodeError, RecursionError):
        raise BadInput(
            "this is no place in a list", hint="take `next` or `prev` from the answer before, as it is"
        ) from None
    if found.sort != sort:
        raise BadInput(
            f"this place is in a list sorted by {found.sort[:60]}, not by {sort}",
            hint="begin at the first page after changing the order",
        )
    return found


@dataclass(frozen=True, slots=True)
class Turn:
    """Which page is meant: the one that follows a place, the one that ends before it, or the first (no place)."""

    place: Place | None = None
    back: bool = False

    def walk(self, sort: str) -> tuple[LiteralString, LiteralString]:
        """As SQL has them: the direction of the walk, and how what is on the page compares with the place."""
        downward = sort.startswith("-") is not self.back
        sign: LiteralString = "<" if downward else ">"
        at = self.place is not None and self.place.at
        return "DESC" if downward else "ASC", sign + "=" if at else sign


def turn(after: str | None, before: str | None, sort: str) -> Turn:
    """``after`` and ``before``: cursors, of which one at most is given."""
    if after and before:
        raise BadInput("a page is after one place or before one, not both", hint="leave one of them out")
    if before:
        return Turn(place(before, sort), back=True)
    return Turn(place(after, sort) if after else None)


def ends(turned: Turn, first: Place | None, last: Place | None, *, more: bool) -> tuple[str | None, str | None]:
    """The cursors to the page before and to the one that follows; None: there is none.

    ``first`` and ``last``: the places of the page's records, None if it has none; ``more``: there are further records
    in the direction that was walked.
    """
    came_from = turned.place
    if first is None or last is None:
        back_there = replace(came_from, at=not came_from.at).encoded() if came_from is not None else None
        return (None, back_there) if turned.back else (back_there, None)
    before, following = first.encoded(), last.encoded()
    if turned.back:
        return before if more else None, following
    return before if came_from is not None else None, following if more else None


def cut(
    rows: list[Row], limit: int, turned: Turn, at: Callable[[Row], Place]
) -> tuple[list[Row], str | None, str | None]:
    """The page of ``rows``, which were found in the direction of the turn, one more than ``limit`` if there are."""
    more = len(rows) > limit
    kept = rows[:limit]
    if turned.back:
        kept.reverse()
    first, last = (at(kept[0]), at(kept[-1])) if kept else (None, None)
    return (kept, *ends(turned, first, last, more=more))

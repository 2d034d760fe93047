"""The history: which epochs made the log, how far each one counts, and on which timeline.

A *span* is what one epoch contributed: slots 0 to ``last_slot``, bytes [start, end) of one timeline. Slot 0 of every
epoch carries the spans of all epochs before it, so that one object tells a reader the whole shape of the log.

Later spans win from their start on: on the same timeline the next span starts where this one ends; a new timeline
starts at its fork, which may lie a little before the end of the span before (the bytes between are a record that
never became whole).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn
from threefold.quorum.membership import FOUNDED, Membership, decode_membership, encode_membership
from threefold.quorum.objects import Kind, LogObject

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Span:
    """One epoch's part of the log."""

    epoch: int
    last_slot: int
    timeline: int
    start: Lsn
    end: Lsn


History = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [start, end) of the log as it counts today; ``timeline`` is the one that wrote them."""

    timeline: int
    start: Lsn
    end: Lsn


def pieces(spans: Sequence[Span]) -> Iterator[Piece]:
    """The log in order, without what a later fork overrode, neighbours of one timeline joined."""
    start: Lsn | None = None
    for this, following in zip(spans, [*spans[1:], None], strict=True):
        start = this.start if start is None else start
        if following is not None and following.timeline == this.timeline:
            continue
        end = this.end if following is None else min(this.end, following.start)
        if end > start:
            yield Piece(this.timeline, start, end)
        start = None


def encode_start(history: History, wal: bytes, membership: Membership = FOUNDED) -> bytes:
    """The payload of slot 0: the history, then the bytes adopted from the tail of the epoch before.

    With the membership, once a store was ever replaced: programs that know nothing of it then refuse the log.
    """
    spans: object = [[s.epoch, s.last_slot, s.timeline, s.start, s.end] for s in history]
    if membership.generation:
        spans = {"history": spans, "membership": encode_membership(membership)}
    packed = json.dumps(spans).encode()
    return _LENGTH.pack(len(packed)) + packed + wal


def decode_start(payload: bytes) -> tuple[History, bytes]:
    """Raises Damaged."""
    try:
        length, rows, _ = _shape(payload)
        history = tuple(Span(e, s, t, Lsn(start), Lsn(end)) for e, s, t, start, end in rows)
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise Damaged("the history in slot 0 is not readable") from error
    return history, payload[_LENGTH.size + length :]


def membership_of(start: LogObject) -> Membership:
    """Whose answers count in the epoch that this slot 0 begins. Raises Damaged."""
    try:
        _, _, membership = _shape(start.payload)
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise Damaged("the history in slot 0 is not readable") from error
    return FOUNDED if membership is None else decode_membership(membership)


def _shape(payload: bytes) -> tuple[int, Any, Any]:
    """Length of the JSON text, the rows of the history, the membership if there is one."""
    (length,) = _LENGTH.unpack_from(payload)
    found = json.loads(payload[_LENGTH.size : _LENGTH.size + length])
    if isinstance(found, dict):
        return length, found["history"], found["membership"]
    return length, found, None


def wal_of(entry: LogObject) -> bytes:
    """The WAL that an entry or a slot 0 carries: the bytes [start, end) of its header."""
    if entry.header.kind is Kind.START:
        return decode_start(entry.payload)[1]
    return entry.payload

"""What to do about one object, given what each store said of its copy. Pure; the safety argument of scrub and repair.

Copying is harmless (create-once: a copy never undoes anything) where the object belongs. Replacing a damaged copy is
not: a delete makes the key look absent on that store until the good copy stands there. What that touches:

- Invariant 1 and 2, nothing that is settled may look absent on two stores. A copy is replaced only while two *other*
  stores hold it whole, verified just before. Whoever asks any two stores meets at least one of those: a reader finds
  the entry (quorum/reading.py believes an entry that any store holds), a take-over adopts it (quorum/takeover.py), a
  walk over the segments sees the segment (absent takes two). So the gap is like a store that was away. A leader that
  appends is not met at all: only slots are touched that counted before the scrub began, and their bytes are fixed. A
  seal that a take-over puts into the gap takes the place of a third copy, no more. A trim that comes between leaves
  an entry that a segment covers, which nobody reads.
- Invariant 4, seals are never deleted. What is damaged cannot say what it was. A seal has exactly `SEAL_BYTES`, and
  damage does not make it longer: in log/ only a longer object is replaced, and only in a slot whose entry counts.
  Anything else there is reported. It still does its work: a damaged seal lets nobody create in its slot.
- Claims (epochs/) and the steps of switches (switches/) are never deleted either: a deleted one could be won again. A
  third copy is made only of what two stores hold alike, so that no copy of ours decides anything.
- Notices of a membership (members/) are copied from any store that has one whole: they are put when the change has
  begun, and tell it to one more. A damaged one is never deleted: who decided something on two stores asks them for a
  notice afterwards (quorum/notices.py), takes a damaged one for no answer, and an absent one for "nothing has changed".
  In the gap it could be the one of the two that stay.
- Invariant 5: what is deleted is a copy that is no good, of an object that two other stores hold.
- Invariant 6: nothing is copied that did not open; damage is read twice before it is believed (mend.py).
- Invariant 7: a store that did not answer neither lacks nor holds anything. It is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from threefold.quorum import keys
from threefold.quorum.check import Counts
from threefold.quorum.objects import SEAL_BYTES

SWITCHES: Final = "switches"
# In the order in which they are looked at: small and decisive first.
PREFIXES: Final = (
    "keys",
    keys.EPOCHS,
    keys.MEMBERS,
    SWITCHES,
    keys.TIMELINES,
    keys.LOG,
    keys.WAL,
    "snapshots",
    "packs",
)
PURPOSES: Final = {keys.LOG: "log", keys.WAL: "wal", "packs": "packs", "snapshots": "manifests"}

_OTHERS: Final = 2  # stores that hold it whole before a damaged copy elsewhere is deleted
_NEVER: Final = {
    keys.EPOCHS: "claims are never deleted, and a damaged one counts as a claim",
    SWITCHES: "steps of a switch are never deleted, and a damaged one counts as taken",
    keys.FORMAT: "the store does not vote so; if it is to be filled anew, delete this object there by hand",
}
_NOTICE: Final = (
    "a notice is never deleted while somebody may ask for it: when every machine has the settings that name today's "
    "stores, delete it there by hand, and scrub again"
)
_MAY_BE_A_SEAL: Final = "it may be a seal: those are never deleted, and a damaged one still bars its slot"


class State(Enum):
    WHOLE = "whole"
    DAMAGED = "damaged"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Copy:
    """One store's answer. ``entry``: of what lies whole in log/, that it is no seal."""

    state: State
    size: int = 0
    digest: bytes = b""
    entry: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What the log said of itself before the scrub began; all of it stays true.

    ``covered``: entries below this (epoch, slot) are in segments; of these only slot 0 of ``kept`` epochs is needed.
    """

    counts: Counts
    newest_epoch: int
    covered: tuple[int, int] = (0, 0)
    kept: frozenset[int] = frozenset()


@dataclass(slots=True)
class Decision:
    """``copy_to`` and ``replace`` are to be done in this order; ``why`` says of others why nothing is done."""

    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    copy_to: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    why: dict[str, str] = field(default_factory=dict)
    lost: bool = False  # no store has it whole, and every store said so

    @property
    def fine(self) -> bool:
        return not (self.missing or self.damaged or self.unknown)


def prefix_of(key: str) -> str:
    return key.partition("/")[0]


def position_of(key: str) -> tuple[int, int] | None:
    """(epoch, slot) of a key in log/."""
    parts = key.split("/")
    try:
        return (int(parts[1], 16), int(parts[2], 16)) if len(parts) == 3 else None
    except ValueError:
        return None


def decide(key: str, copies: Mapping[str, Copy], log: LogFacts | None, *, replaced: bool = False) -> Decision:
    """``log`` is None where it could not be read: then nothing in log/ is touched.

    ``replaced``: a wrapped key that a newer one took the place of. It is on its way out, and is not brought back.
    """
    if replaced:
        return Decision(unknown=_in(copies, State.UNKNOWN))
    prefix = prefix_of(key)
    if prefix == keys.LOG:
        return _in_log(key, copies, log)
    if prefix in _NEVER:
        return _decided_by_two(copies, _NEVER[prefix])
    if prefix == keys.MEMBERS:
        return _notice(copies)
    if prefix == "keys":
        copies = _odd_one_out(copies)
    return _content(copies)


def _content(copies: Mapping[str, Copy]) -> Decision:
    """What is known by what it holds: any whole copy may be copied."""
    found = _seen(copies)
    whole = _in(copies, State.WHOLE)
    found.missing = _in(copies, State.ABSENT)
    if not whole:
        found.lost = not found.unknown
        found.why = dict.fromkeys((*found.missing, *found.damaged), "no store that answers has it whole")
        return found
    found.copy_to = found.missing
    _replace(found, len(whole) + len(found.copy_to), found.damaged)
    return found


def _notice(copies: Mapping[str, Copy]) -> Decision:
    """Told on, and never taken back."""
    found = _content(copies)
    found.replace = ()
    found.why |= dict.fromkeys(found.damaged, _NOTICE)
    return found


def _in_log(key: str, copies: Mapping[str, Copy], log: LogFacts | None) -> Decision:
    found, at = _seen(copies), position_of(key)
    if log is None or at is None:
        why = "the log could not be read, so what belongs into this slot is not known" if at else "not one of our keys"
        found.why = dict.fromkeys(found.damaged, why)
        return found
    if not log.counts(*at):
        found.why = dict.fromkeys(found.damaged, _MAY_BE_A_SEAL)
        if at[0] < log.newest_epoch and any(copy.state is State.WHOLE and not copy.entry for copy in copies.values()):
            found.missing = found.copy_to = _in(copies, State.ABSENT)
        return found
    if at < log.covered and not (at[1] == 0 and at[0] in log.kept):
        found.why = dict.fromkeys(found.damaged, "not needed any more: a segment holds its bytes")
        return found
    entries = [name for name, copy in copies.items() if copy.state is State.WHOLE and copy.entry]
    found.missing = _in(copies, State.ABSENT)
    if not entries:
        found.lost = not found.unknown and bool(found.damaged)
        found.why = dict.fromkeys((*found.missing, *found.damaged), "no store that answers has it whole")
        return found
    if len({copies[name].digest for name in entries}) > 1:
        found.why = dict.fromkeys(copies, "two stores hold different entries: keep all as they are and report this")
        found.damaged = tuple(copies)
        return found
    found.copy_to = found.missing
    found.why = {name: _MAY_BE_A_SEAL for name in found.damaged if copies[name].size <= SEAL_BYTES}
    _replace(found, len(entries) + len(found.copy_to), [name for name in found.damaged if name not in found.why])
    return found


def _decided_by_two(copies: Mapping[str, Copy], why: str) -> Decision:
    found = _seen(copies)
    found.why = dict.fromkeys(found.damaged, why)
    if _held_by_two(copies):
        found.missing = found.copy_to = _in(copies, State.ABSENT)
    return found


def _odd_one_out(copies: Mapping[str, Copy]) -> dict[str, Copy]:
    """A wrapped key opens by passphrase alone, which is not here: the copy that differs from two alike is damaged."""
    agreed = _held_by_two(copies)
    if not agreed:
        return dict(copies)
    return {
        name: Copy(State.DAMAGED, copy.size, why="it differs from the copies on two other stores")
        if copy.state is State.WHOLE and copy.digest != agreed
        else copy
        for name, copy in copies.items()
    }


def _replace(found: Decision, whole: int, stores: tuple[str, ...] | list[str]) -> None:
    if whole >= _OTHERS:
        found.replace = tuple(stores)
        return
    found.why |= dict.fromkeys(stores, "only one store has it whole: it is deleted here once two others have it")


def _seen(copies: Mapping[str, Copy]) -> Decision:
    return Decision(damaged=_in(copies, State.DAMAGED), unknown=_in(copies, State.UNKNOWN))


def _in(copies: Mapping[str, Copy], state: State) -> tuple[str, ...]:
    return tuple(name for name, copy in copies.items() if copy.state is state)


def _held_by_two(copies: Mapping[str, Copy]) -> bytes:
    """The digest that two stores hold alike; empty where none is."""
    digests = [copy.digest for copy in copies.values() if copy.state is State.WHOLE]
    return next((digest for digest in digests if digests.count(digest) >= _OTHERS), b"")

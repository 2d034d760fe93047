"""The steps of a switch, as records, and what a sequence of them means. Pure.

    switches/{number:08x}/{k:02x}    in every store, created once, sealed with its key as header

A switch makes another site the active one. Its steps stand in this order, which `_FOLLOWS` alone says:

    ordered -> [stopped] -> fenced -> promoting -> serving -> protected
    abandoned may take the place of anything before ``promoting``

A step is *decided* when two stores hold the same bytes under its key (deciding.py): then it is there for good. Two
steps that compete for one key, such as ``promoting`` and ``abandoned``, cannot both be decided, so whoever reads them
acts on the same one. What is on one store only, or not known, is never acted on.

*Active* is the target of the newest switch that reached ``promoting``; before the first, the primary's site. From
``ordered`` to ``promoting`` nobody but the switch claims an epoch of the log: its fence fixes the log's end, and the
new site's copy ends exactly there.

A switch that reached ``promoting`` cannot be abandoned. The next one may be ordered then, though this one never
became ``protected``: the new site may fail as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.kernel.lsn import Lsn

SWITCHES: Final = "switches"
PURPOSE: Final = "switch"


class Kind(StrEnum):
    """What a step says has happened, or (``promoting``) is about to."""

    ORDERED = "ordered"  # to, source, reason, evidence, planned
    STOPPED = "stopped"  # lsn: the source's server was shut down cleanly, its last byte
    FENCED = "fenced"  # epoch, end, timeline, start: the log below this epoch is fixed
    PROMOTING = "promoting"  # dsn: how others reach the PostgreSQL that is about to serve
    SERVING = "serving"  # timeline, at, dsn
    PROTECTED = "protected"  # epoch, snapshot
    ABANDONED = "abandoned"  # why


_FOLLOWS: Final[Mapping[Kind | None, frozenset[Kind]]] = {
    None: frozenset({Kind.ORDERED}),
    Kind.ORDERED: frozenset({Kind.STOPPED, Kind.FENCED, Kind.ABANDONED}),
    Kind.STOPPED: frozenset({Kind.FENCED, Kind.ABANDONED}),
    Kind.FENCED: frozenset({Kind.PROMOTING, Kind.ABANDONED}),
    Kind.PROMOTING: frozenset({Kind.SERVING}),
    Kind.SERVING: frozenset({Kind.PROTECTED}),
    Kind.PROTECTED: frozenset(),
    Kind.ABANDONED: frozenset(),
}
_ACTIVE: Final = frozenset({Kind.PROMOTING, Kind.SERVING, Kind.PROTECTED})


@dataclass(frozen=True, slots=True)
class Step:
    """One decided step. ``at`` is its author's wall time (for people), ``seconds`` since the order by his clock."""

    kind: Kind
    by: str
    at: str
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    def lsn(self, name: str) -> Lsn:
        return Lsn.parse(str(self.facts[name]))


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch: the steps that are decided, and the key where the next one goes."""

    number: int
    steps: tuple[Step, ...]
    next_k: int  # behind the last decided step, void keys skipped

    @property
    def order(self) -> Step:
        return self.steps[0]

    @property
    def target(self) -> str:
        return str(self.order.facts["to"])

    @property
    def source(self) -> str:
        return str(self.order.facts["source"])

    @property
    def planned(self) -> bool:
        return bool(self.order.facts.get("planned"))

    @property
    def last(self) -> Step:
        return self.steps[-1]

    def step(self, kind: Kind) -> Step | None:
        return next((step for step in self.steps if step.kind is kind), None)

    @property
    def abandoned(self) -> bool:
        return self.last.kind is Kind.ABANDONED

    @property
    def took_over(self) -> bool:
        """Whether the target is active by it: it reached ``promoting``."""
        return self.last.kind in _ACTIVE

    @property
    def under_way(self) -> bool:
        """It stands, and its target is not active yet: nobody but the switch claims an epoch."""
        return not self.abandoned and not self.took_over

    @property
    def concluded(self) -> bool:
        """Nothing more comes."""
        return not may_follow(self.last.kind)

    @property
    def dsn(self) -> str | None:
        """How the target's PostgreSQL is reached, without the password; None before it is told."""
        told = [str(step.facts["dsn"]) for step in self.steps if step.facts.get("dsn")]
        return told[-1] if told else None


@dataclass(frozen=True, slots=True)
class Active:
    """Who is active, by the journal.

    ``under_way``: a switch stands that has not reached ``promoting``; it is `switch` then. ``switch_number`` and
    ``step`` are of the newest switch, 0 and "" where there was none.
    """

    site: str
    switch_number: int
    step: str
    under_way: bool
    dsn: str | None = None  # of the active site as its switch tells it; None: as the settings have it
    switch: Switch | None = None  # the newest
    made_active: int = 0  # the number of the switch that made `site` active; 0: none had to


@dataclass(frozen=True, slots=True)
class Switches:
    """All of them, the oldest first, as two stores had them at one moment."""

    all: tuple[Switch, ...] = ()

    @property
    def newest(self) -> Switch | None:
        return self.all[-1] if self.all else None

    def active(self, primary_site: str) -> Active:
        won = next((each for each in reversed(self.all) if each.took_over), None)
        newest = self.newest
        return Active(
            site=won.target if won else primary_site,
            switch_number=newest.number if newest else 0,
            step=newest.last.kind.value if newest else "",
            under_way=newest.under_way if newest else False,
            dsn=won.dsn if won else None,
            switch=newest,
            made_active=won.number if won else 0,
        )


def may_follow(kind: Kind | None) -> frozenset[Kind]:
    """What may be proposed behind a decided step; None: a new switch."""
    return _FOLLOWS[kind]


def check_order(steps: Sequence[Step]) -> None:
    """Raises Damaged for steps that no program of ours would have proposed one after the other."""
    before: Kind | None = None
    for step in steps:
        if step.kind not in may_follow(before):
            raise Damaged(f"a switch has {step.kind.value} behind {before.value if before else 'nothing'}")
        before = step.kind


def key_of(number: int, k: int) -> str:
    return f"{SWITCHES}/{number:08x}/{k:02x}"


def encode(step: Step, key: str, keyring: Keyring, nonce: bytes) -> bytes:
    record = {"kind": step.kind.value, "by": step.by, "at": step.at, "seconds": step.seconds, "facts": step.facts}
    plain = json.dumps(record, sort_keys=True, default=str).encode()
    return nonce + keyring.sealer(PURPOSE).seal(plain, nonce=nonce, header=key.encode())


def decode(body: bytes, key: str, keyring: Keyring) -> Step:
    """Raises Damaged: for another key's step in this place as well."""
    plain = keyring.sealer(PURPOSE).open(body[NONCE_BYTES:], nonce=body[:NONCE_BYTES], header=key.encode())
    try:
        record = json.loads(plain)
        kind = Kind(record["kind"])
        return Step(kind, str(record["by"]), str(record["at"]), float(record["seconds"]), dict(record["facts"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{key} is not readable", hint="a newer version wrote it") from error

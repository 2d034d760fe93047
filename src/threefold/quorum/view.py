"""What is known of one slot: which stores hold an entry, which a seal, which definitely nothing.

A store that answered nothing, an error, or bytes that do not open appears nowhere: unknown is neither present nor
absent (invariant 7), and a damaged copy must never read as "no entry".

A copy that names another master key is as good as damaged while one store alone shows it: that store may lie. Where as
many as decide show it, the log goes on under a key that we do not have, and we say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from threefold.kernel.errors import Damaged, OtherKey, Refused
from threefold.quorum import keys
from threefold.quorum.keys import BUNDLE_SLOTS, SEGMENT_BYTES
from threefold.quorum.majority import QUORUM
from threefold.quorum.membership import FOUNDED, Membership
from threefold.quorum.objects import Codec, Kind, LogObject
from threefold.quorum.requests import Answer, Answers, Ask, Create, Procedure, Read
from threefold.stores.store import ABSENT, Made

# How much longer a store may take than the others where its answer is welcome, but not needed.
GRACE_S = 0.3


@dataclass(frozen=True, slots=True)
class Scope:
    """Who is asked, and who asks.

    ``stores`` are the voting members. ``decisive`` is how many definite answers decide: two, or one for somebody
    who reads a single store on purpose and accepts what that proves. ``membership`` is the one that was assumed when
    these stores were chosen: a newest epoch under another one raises MovedError. ``bundles_opened``: for who
    reads the same log twice in a row (look, then take over), what bundles of these very bytes hold; None: not kept.

    ``thorough``: where as many stores as decide call something absent, the others are heard as well, if they answer
    soon: after damage on two stores the third one is the one that has it.
    """

    stores: tuple[str, ...]
    codec: Codec
    writer: str
    decisive: int = QUORUM
    segment_bytes: int = SEGMENT_BYTES
    bundle_slots: int = BUNDLE_SLOTS
    membership: Membership = FOUNDED
    bundles_opened: dict[bytes, list[LogObject]] | None = None
    thorough: bool = False


@dataclass(slots=True)
class View:
    """One slot over all stores."""

    epoch: int
    slot: int
    entry: LogObject | None = None
    copies: set[str] = field(default_factory=set)
    seals: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    foreign: dict[str, str] = field(default_factory=dict)  # of the damaged: which other master key they name

    @property
    def key(self) -> str:
        return keys.slot_key(self.epoch, self.slot)

    def vacant(self) -> int:
        """Stores that say there is no entry."""
        return len(self.seals) + len(self.absent)

    def become(self, again: View) -> None:
        """What was seen at a later look."""
        self.entry, self.copies, self.seals = again.entry, again.copies, again.seals
        self.absent, self.damaged = again.absent, again.damaged

    def hopeless(self, scope: Scope) -> bool:
        """Every store has answered, none has it whole, and too few say that there is nothing."""
        answered = len(self.damaged) + self.vacant() == len(scope.stores)
        return self.entry is None and answered and self.vacant() < scope.decisive

    @property
    def damage(self) -> str:
        """In words, where it is `hopeless`."""
        return f"{self.key} is damaged on {', '.join(sorted(self.damaged))}, and nobody has it whole"

    def learn(self, codec: Codec, store: str, answer: Answer) -> None:
        """Take in what a read of this slot answered. Raises Refused where two writers wrote one slot."""
        if answer is ABSENT:
            self.absent.add(store)
            return
        if not isinstance(answer, bytes):
            return
        self.absent.discard(store)
        found = opened(codec, answer)
        if (
            found is None
            or found.header.kind in {Kind.SEGMENT, Kind.BUNDLE}
            or found.position != (self.epoch, self.slot)
        ):
            self.damaged.add(store)  # a whole object in the wrong place is as good as damaged
            if (key_id := named_key(codec, answer)) is not None:
                self.foreign[store] = key_id
            return
        if found.is_seal:
            self.seals.add(store)
            return
        if self.entry is not None and self.entry.digest != found.digest:
            raise Refused(
                f"slot {self.slot} of epoch {self.epoch} holds two different entries",
                hint="two writers used one epoch: do not go on, keep all three stores and report this",
            )
        self.entry = found
        self.copies.add(store)


def look(scope: Scope, epoch: int, slots: Sequence[int]) -> Procedure[list[View]]:
    """Read slots of one epoch side by side, waiting only for as many stores as decide."""
    return (yield from look_at(scope, [(epoch, slot) for slot in slots]))


def look_at(scope: Scope, positions: Sequence[tuple[int, int]], *, grace: float = 0.0) -> Procedure[list[View]]:
    """Read slots, (epoch, slot) each, side by side, waiting only for as many stores as decide.

    ``grace``: seconds for the others.
    """
    requests = tuple(Read(store, keys.slot_key(*position)) for position in positions for store in scope.stores)
    width = len(scope.stores)

    decided = [0] * len(positions)
    foreign = [0] * len(positions)
    judged, undecided = 0, len(positions)

    def enough(answers: Answers) -> bool:
        nonlocal judged, undecided
        for place in islice(answers, judged, None):  # asked after each answer: those before were counted then
            judged += 1
            # Damaged bytes decide nothing: counted, they would end the waiting before the store that knows answered.
            tally, other = decided, foreign
            if answers[place] is not ABSENT and opened(scope.codec, answers[place]) is None:
                if named_key(scope.codec, answers[place]) is None:
                    continue
                tally, other = foreign, decided
            tally[place // width] += 1
            undecided -= tally[place // width] == scope.decisive > other[place // width]
        return undecided == 0

    answers: Answers = yield Ask(requests, enough, grace)
    views = [View(epoch, slot) for epoch, slot in positions]
    for place, answer in answers.items():
        views[place // width].learn(scope.codec, requests[place].store, answer)
    for view in views:
        _refuse_other_key(scope, view)
    return views


def look_well(scope: Scope, view: View) -> Procedure[View]:
    """Once more at a slot that as many stores as decide call vacant, before that is believed (``thorough``)."""
    known = len(view.copies) + view.vacant() + len(view.damaged)
    if not scope.thorough or known == len(scope.stores):
        return view
    (again,) = yield from look_at(scope, [(view.epoch, view.slot)], grace=GRACE_S)
    return again


def opened(codec: Codec, answer: Answer) -> LogObject | None:
    """The object that a read answered, whole; None for anything else."""
    if not isinstance(answer, bytes):
        return None
    try:
        return codec.open(answer)
    except Damaged:
        return None


def named_key(codec: Codec, answer: Answer) -> str | None:
    """The id of the master key that an object names and we do not have; None for anything else."""
    if not isinstance(answer, bytes):
        return None
    try:
        codec.open_header(answer)
    except OtherKey as other:
        return other.key_id
    except Damaged:
        return None
    return None


def _refuse_other_key(scope: Scope, view: View) -> None:
    if view.entry is None and len(view.foreign) >= scope.decisive:
        raise scope.codec.other_key(next(iter(view.foreign.values())))


def _any(answers: Answers) -> bool:
    return any(isinstance(answer, bytes) for answer in answers.values())


def put(
    scope: Scope, view: View, body: bytes, stores: Sequence[str], *, patiently: bool = False, needed: int | None = None
) -> Procedure[None]:
    """Create ``body`` in the slot on ``stores``; ``view`` learns what stands there afterwards.

    An answer that is not CREATED says nothing by itself: it is read back. A store that hangs is not waited for once
    as many as decide have answered definitely; ``patiently`` it is, where that did not get us further.
    """
    creates = tuple(Create(store, view.key, body) for store in stores)

    def enough(answers: Answers) -> bool:
        made = sum(isinstance(answer, Made) for answer in answers.values())
        return not patiently and made >= min(needed or scope.decisive, len(stores))

    answers: Answers = yield Ask(creates, enough, GRACE_S)
    doubtful = []
    for place, store in enumerate(stores):
        if answers.get(place) is Made.CREATED:
            view.learn(scope.codec, store, body)
        elif place in answers:
            doubtful.append(store)
    if doubtful:
        reads = tuple(Read(store, view.key) for store in doubtful)
        answers = yield Ask(reads, _any, GRACE_S)
        for place, store in enumerate(doubtful):
            view.learn(scope.codec, store, answers.get(place))
        _refuse_other_key(scope, view)

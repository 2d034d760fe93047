"""Processes around the log: the leader, as production runs it (quorum-log.md, Writing), and readers.

The decisions are production's own: `read_log`, `fence`, `opening`, `start`, `resume`, `Appender`, `trim`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.simulation.active import waits, won
from tests.simulation.wal import ORIGIN, Primary, Timeline
from tests.simulation.world import Process, Running
from threefold.failover.deciding import read_switches
from threefold.failover.steps import Switches
from threefold.kernel.errors import Damaged, Fenced, Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.quorum import lead, members, reading, start, trim
from threefold.quorum.appender import Appender, Encode, Encoded
from threefold.quorum.history import History as Spans
from threefold.quorum.membership import FOUNDED, Membership, MovedError
from threefold.quorum.objects import Codec, Header, LogObject
from threefold.quorum.requests import Pause
from threefold.quorum.view import Scope
from threefold.quorum.walk import Found

if TYPE_CHECKING:
    from tests.simulation.scenario import Run

LOG_ID = 7_000_000_000_000_000_001
MEMBERS_EVERY_S = 2.0
PATIENCE_S = 90.0  # then a leader or a reader is started anew, and asks anew who the members are


class MemoCodec(Codec):
    """The real codec; bytes that were opened once are not opened again."""

    def __init__(self) -> None:
        super().__init__(Keyring(bytes(32)), LOG_ID)
        self._opened: dict[bytes, LogObject] = {}
        self._headers: dict[bytes, Header] = {}

    def encode(self, header: Header, payload: bytes = b"", compressed: bytes | None = None) -> LogObject:
        made = super().encode(header, payload, compressed)
        self._opened[made.body] = made
        return made

    def open(self, body: bytes) -> LogObject:
        found = self._opened.get(body)
        if found is None:
            found = self._opened[body] = super().open(body)
        return found

    def open_header(self, body: bytes) -> Header:
        if len(body) > 116:
            body = body[:116]
        found = self._headers.get(body)
        if found is None:
            found = self._headers[body] = super().open_header(body)
        return found


Aim = Callable[[Membership], Membership | None] | None


class Client(Process):
    """A process that asks the stores, each as the incarnation that it met first."""

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run.world, name)
        self.run = run
        self.writer = f"{run.world.rng.getrandbits(128):032x}"
        self.pins: dict[str, int] = {}
        self.known = run.known  # what its settings name
        self.reach = run.reach  # the stores that it reaches at all; None: every one

    def go(
        self, procedure: Generator[Any, Any, Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        Running(self, procedure, done, failed, self.pins).start()

    def meet(
        self, stores: tuple[str, ...] | None = None, membership: Membership = FOUNDED
    ) -> Generator[Any, Any, Scope]:
        """The stores that vote under this membership, of those that can be reached, once there are two."""
        try:
            voters = self.known.voters(membership)
        except Refused as stale:
            self.run.operator.turned_away(self.known, membership)
            raise Fenced(f"its settings are old: {stale}") from None
        voters = tuple(s for s in voters if s in (stores or voters) and s in (self.reach or voters))
        for _ in range(200):
            roll = yield from members.read_roll(voters)
            if len(roll.members) >= 2:
                self.pins.update({name: int(found.incarnation) for name, found in roll.members.items()})
                return self.run.scope(tuple(roll.members), self.writer, membership)
            yield Pause(0.5)
        raise Unavailable("fewer than two members answer")


class Leader(Client):
    """One DRaaS instance: from looking to appending, until it is fenced, crashes or is given up."""

    def __init__(self, run: Run, name: str, primary: Primary, *, looks: bool, aim: Aim = None) -> None:
        """``aim``: the change of membership that its epoch is to begin with, given the one that is in force."""
        super().__init__(run, name)
        self.primary = primary
        self.membership = FOUNDED
        self._aim = aim
        self.looks = looks
        self.epoch = 0
        self.appender: Appender | None = None
        self._found: Found | None = None
        self._told = 0
        self._trimming = False
        self._trimmed: tuple[int, int] | None = None
        self._poll_at = -1.0
        self._progress = run.world.now
        self.go(self._become(), lambda _: None, self._stop)

    def _stop(self, error: Exception) -> None:
        self.crash(f"stops: {type(error).__name__} {error}")
        self.run.stopped(self, error)

    def _become(self) -> Generator[Any, Any, None]:
        membership = FOUNDED
        while True:
            try:
                yield from self._become_under(membership)
                return
            except MovedError as moved:
                self.world.note(f"{self.name} meets {moved}")
                membership = moved.membership

    def _become_under(self, membership: Membership) -> Generator[Any, Any, None]:
        run, primary = self.run, self.primary
        scope = yield from self.meet(membership=membership)
        change = self._aim(membership) if self._aim else None
        if change is not None:
            scope = self._asked_for(change, scope)
        if self.looks:
            yield from self._look_where()
            found = yield from reading.read_log(scope)
            if not self._continues(found):
                raise Fenced("the log went on without this primary")
        while True:
            self.epoch, found = yield from self._claim(scope)
            run.checker.claimed(self.epoch, self)
            self.world.note(f"{self.name} has epoch {self.epoch}, log ends {found and int(found.end)}")
            if not (yield from self._may_still_lead()):
                raise Fenced("a switch was ordered")
            if not self._still_continues(found):
                raise Fenced("the log went on without this primary")
            begin, last = self._opening(found)
            run.checker.starts(self.epoch, begin.timeline, self)
            if change is not None:
                begin = replace(begin, membership=change)
            first = yield from start.start(scope, self.epoch, begin)
            if change is not None:
                scope, change = (yield from self._after(change, scope)), None
            if last:
                break
        resumed = yield from lead.resume(scope, found, first)
        self.world.note(f"{self.name} leads epoch {self.epoch} on {primary.timeline} from {int(first.header.end)}")
        self._found = found
        self.membership = scope.membership
        self.appender = Appender(scope, first, resumed.recent, resumed.begin, run.limits)
        self._progress = self.world.now
        run.leading(self)
        self._acknowledge()
        self.offer()
        if run.wipes:
            self.later(MEMBERS_EVERY_S, self._check_members)

    def _asked_for(self, change: Membership, scope: Scope) -> Scope:
        """A change is made on both stores that stay."""
        both = change.stores if change.is_joint else scope.membership.stores
        if not set(both) <= set(scope.stores):
            raise Unavailable("both stores that stay are needed")
        return replace(scope, stores=both)

    def _after(self, change: Membership, scope: Scope) -> Generator[Any, Any, Scope]:
        """Who is written to after the change: of those that are new to it, who carries the format."""
        new = tuple(store for store in change.stores if store not in scope.stores)
        roll = yield from members.read_roll(new)
        self.pins.update({name: int(found.incarnation) for name, found in roll.members.items()})
        there = (*scope.stores, *roll.members)
        return replace(scope, stores=there, membership=change)

    def _look_where(self) -> Generator[Any, Any, None]:
        """Courtesy: nobody begins while a switch is under way, or for a site that was left."""
        if self.run.switches:
            switches = yield from read_switches(self.run.desk, Switches())
            self.primary.obsolete |= won(switches) > self.primary.switch
            if waits(switches) or self.primary.obsolete:
                raise Fenced("another site is active, or will be")

    def _claim(self, scope: Scope) -> Generator[Any, Any, tuple[int, Found | None]]:
        return (yield from lead.fence(scope))

    def _may_still_lead(self) -> Generator[Any, Any, bool]:
        """Safety: asked after the take-over (protect/leadership.py)."""
        if not self.run.switches:
            return True
        switches = yield from read_switches(self.run.desk, Switches())
        return not waits(switches) and won(switches) == self.primary.switch

    def _continues(self, found: Found | None) -> bool:
        if found is None:
            return self.primary.timeline.number == 1
        if self.primary.continues(self.run.checker.line_of(found), found.end):
            return True
        self.run.checker.refused(self, found)
        self.primary.obsolete = True
        return False

    def _still_continues(self, found: Found | None) -> bool:
        """The check again, after the take-over: the log may have grown since it was looked at."""
        return self._continues(found)

    def _opening(self, found: Found | None) -> tuple[start.Opening, bool]:
        """How this epoch begins, and whether it is the last before appending."""
        timeline = self.primary.timeline
        if found is None or found.timeline == timeline.number:
            return start.opening(found, timeline.number, Lsn(ORIGIN)), True
        fork = timeline.leaves(self.run.checker.line_of(found))
        if fork is None:
            fork = timeline.fork  # only where nobody checked: see broken/taking_over.py
        if found.tail or fork > found.placed:
            # First an epoch on the old timeline, which brings its last bytes to two stores.
            begin = start.opening(found, found.timeline, found.placed)
            if fork > begin.end:
                wal = begin.wal + timeline.bytes(begin.end, fork)
                begin = replace(begin, wal=wal)
            return begin, False
        return start.opening(found, timeline.number, Lsn(fork)), True

    def offer(self) -> None:
        """The primary flushed something."""
        if self.appender is not None and self.primary.alive:
            received = self.appender.received
            if self.primary.flushed > received:
                self.appender.offer(self.primary.timeline.bytes(received, self.primary.flushed))
        self._pump()

    def _pump(self) -> None:
        appender = self.appender
        if appender is None:
            return
        for send in appender.poll(self.world.now):
            request = send.request
            if isinstance(request, Encode):
                made = Encoded(appender._scope.codec.encode_parts(request.header, request.parts))
                self.later(0.001, lambda token=send.token, made=made: self._answered(token, made))
            else:
                self.world.send(
                    self,
                    request,
                    lambda answer, token=send.token: self._answered(token, answer),
                    self.pins.get(request.store),
                )
        at = appender.next_retry()
        if at is not None and at > self.world.now and at != self._poll_at:
            self._poll_at = at
            self.later(at - self.world.now + 0.0001, self._pump)

    def _answered(self, token: int, answer: Any) -> None:
        appender = self.appender
        appender.answer(token, answer, self.world.now)
        if appender.fenced:
            self._stop(Fenced(appender.fenced))
            return
        self._acknowledge()
        if appender.covered is not None and appender.covered != self._trimmed and not self._trimming:
            self._trimming = True
            self.later(self.world.rng.random() * 0.3, self._trim)
        self._pump()

    def _acknowledge(self) -> None:
        settled = self.appender.settled
        if settled > self._told:
            self._told = settled
            self._progress = self.world.now
            self.primary.acked = max(self.primary.acked, settled)
            self.run.checker.acknowledged(self, settled)
            self.run.acknowledged(self.primary)

    def _trim(self) -> None:
        covered = self._trimmed = self.appender.covered
        spans = self.spans

        def over(_: object) -> None:
            self._trimming = False

        self.go(trim.trim(self.appender._scope, spans, self.epoch, covered), over, self._stop)

    def _check_members(self) -> None:
        """A member that answers as somebody else, or as nobody, lost its memory."""

        def learned(roll: members.Roll) -> None:
            for store in [*roll.strangers, *roll.members]:
                found = roll.members.get(store)
                if store in self.appender.lanes and (found is None or int(found.incarnation) != self.pins[store]):
                    self.world.note(f"{self.name} drops {store}")
                    self.appender.drop(store)
            self.later(MEMBERS_EVERY_S, self._check_members)

        self.go(members.read_roll(tuple(self.pins)), learned, self._stop)

    @property
    def spans(self) -> Spans:
        """The epochs before its own."""
        return self._found.spans if self._found else ()

    @property
    def stuck(self) -> bool:
        """Nothing is acknowledged for long, though there is something to acknowledge."""
        if self.appender is None:
            return self.world.now - self._progress > PATIENCE_S
        behind = self.primary.alive and self.primary.flushed > self.appender.settled
        return behind and self.world.now - self._progress > PATIENCE_S


class Reader(Client):
    """Reads the log without fencing, as recovery does, and hands on what it found."""

    def __init__(
        self,
        run: Run,
        name: str,
        stores: tuple[str, ...],
        then: Callable[[Reader, Found, Timeline], None] | None = None,
        empty: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(run, name)
        self._empty = empty
        self._then = then
        self._stores = stores
        self.later(PATIENCE_S, lambda: self.crash("is asked no longer"))
        self.go(self._read(), lambda _: self.crash("is done"), lambda error: self.crash(f"gives up: {error}"))

    def _read(self) -> Generator[Any, Any, None]:
        checker = self.run.checker
        membership = FOUNDED
        while True:
            scope = yield from self.meet(self._stores, membership)
            acked = checker.promises()
            try:
                found = yield from reading.read_log(scope)
                break
            except MovedError as moved:
                membership = moved.membership
        if found is None:
            checker.never_began(acked, self.name)
            if self._empty is not None:
                self._empty()
            return
        self.world.note(f"{self.name} finds the log up to {int(found.end)} of timeline {found.timeline}")
        line = yield from checker.verify(scope, found, acked, self.name, last_segments=3)
        if self._then is not None:
            self._then(self, found, line)


def opened(codec: Codec, answer: object) -> LogObject | None:
    if not isinstance(answer, bytes):
        return None
    try:
        return codec.open(answer)
    except Damaged:
        return None

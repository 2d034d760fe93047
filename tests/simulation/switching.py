"""Switches in the simulated world: an agent that orders, fences and promotes at the other site, and who abandons it.

What is decided, and how it is read, is production's own (failover/deciding.py, quorum/lead.py); the agent follows the
order of failover/switch.py. Around it live the old primary, its leader, and others that want to lead for it, all of
them slow at times: none of them may be confirmed anything beyond the end that the switch fixed.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.simulation.active import waits, won
from tests.simulation.leader import PATIENCE_S, Client
from tests.simulation.wal import Primary, Timeline
from threefold.failover.deciding import decide, read_switches
from threefold.failover.steps import Kind, Step, Switch, Switches, encode, key_of, may_follow
from threefold.kernel.errors import Fenced, NotThere
from threefold.quorum import lead, start
from threefold.quorum.claim import highest_claim
from threefold.quorum.requests import Pause

if TYPE_CHECKING:
    from tests.simulation.scenario import Run


class _Clerk(Client):
    """Somebody who reads and writes the journal."""

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run, name)
        self._known = Switches()
        self.later(PATIENCE_S, lambda: self.crash("is started anew"))

    def _read(self) -> Generator[Any, Any, Switches]:
        self._known = yield from read_switches(self.run.desk, self._known)
        return self._known

    def _again(self, number: int) -> Generator[Any, Any, Switch]:
        switches = yield from self._read()
        return next(each for each in switches.all if each.number == number)

    def _propose(self, switch: Switch, kind: Kind, **facts: Any) -> Generator[Any, Any, Switch]:
        """As Journal.propose does."""
        while True:
            current = yield from self._again(switch.number)
            if current.step(kind) is not None or kind not in may_follow(current.last.kind):
                return current
            yield from self._put(current.number, current.next_k, kind, facts)

    def _put(self, number: int, k: int, kind: Kind, facts: dict[str, Any]) -> Generator[Any, Any, Any]:
        key = key_of(number, k)
        nonce = self.world.rng.randbytes(12)
        body = encode(Step(kind, self.name, "", 0.0, facts), key, self.run.desk.keyring, nonce)
        return (yield from decide(self.run.desk, key, body))

    def _order(self, switches: Switches) -> Generator[Any, Any, Switch]:
        """The next one: ours, or a rival's that was quicker."""
        number = switches.newest.number + 1 if switches.newest else 1
        k = 0
        while True:
            yield from self._put(number, k, Kind.ORDERED, {"to": f"site {number}", "source": ""})
            switches = yield from self._read()
            if switches.newest is not None and switches.newest.number >= number:
                return switches.newest
            k += 1  # void


class Agent(_Clerk):
    """Makes another site active; takes up a switch that somebody else left half-way."""

    def __init__(self, run: Run, name: str, *, last: bool = False, orders: bool = True) -> None:
        """``last``: what serves at the end must go on living, whatever was ordered before."""
        super().__init__(run, name)
        self._last = last
        self._orders = orders
        self.go(self._work(), lambda _: self.crash("is done"), lambda error: self.crash(f"gives up: {error}"))

    def _work(self) -> Generator[Any, Any, None]:
        while True:
            switches = yield from self._read()
            begun = switches.newest if waits(switches) else None
            if begun is None and not self._orders:
                return
            switch = begun or (yield from self._order(switches))
            ours = switch.order.by == self.name
            yield from self._carry_out(switch, last=self._last and ours)
            if ours or not self._last:
                return

    def _carry_out(self, switch: Switch, *, last: bool) -> Generator[Any, Any, None]:
        while True:
            self.world.note(f"{self.name} carries out switch {switch.number}: {switch.last.kind.value}")
            match switch.last.kind:
                case Kind.ORDERED:
                    epoch, end = yield from self._fence(switch)
                    switch = yield from self._propose(switch, Kind.FENCED, epoch=epoch, end=end)
                case Kind.FENCED:
                    epoch, end = yield from self._end(switch)
                    switch = yield from self._propose(switch, Kind.PROMOTING, epoch=epoch, end=end)
                case Kind.PROMOTING:
                    facts = switch.last.facts
                    self.run.promote(self, switch.number, self.run.ends[facts["epoch"]], facts["end"], last=last)
                    switch = yield from self._propose(switch, Kind.SERVING)
                case _:
                    return

    def _fence(self, switch: Switch) -> Generator[Any, Any, tuple[int, int]]:
        """The log's end, fixed by an epoch of ours."""
        while True:
            self.writer = f"{self.world.rng.getrandbits(128):032x}"  # nobody uses an epoch twice
            scope = yield from self.meet()
            try:
                epoch, found = yield from lead.fence(scope)
                if found is None:
                    raise NotThere("the log has not begun")
                line = self.run.checker.fences(epoch, found, self)
                begin = start.opening(found, found.timeline, found.end)
                begin = replace(begin, wal=begin.wal + (yield from self._surplus(switch, line, found.end)))
                yield from start.start(scope, epoch, begin)  # without it: test_found.py
            except Fenced:
                continue  # somebody claimed above us; he gives up, or is another agent of this switch
            self.world.note(f"{self.name} fences with epoch {epoch}: the log ends at {int(begin.end)} of {line}")
            self.run.ends[epoch] = line
            return epoch, int(begin.end)

    def _end(self, switch: Switch) -> Generator[Any, Any, tuple[int, int]]:
        """Where to promote: the decided fence's end, unless somebody claimed above it before it was decided.

        Who did so may yet put a slot 0 with a surplus of his own behind it. Who claims later sees that it is decided.
        """
        scope = yield from self.meet()
        facts = switch.last.facts
        if (yield from highest_claim(scope, decisive=1)) == facts["epoch"]:
            return facts["epoch"], facts["end"]
        return (yield from self._fence(switch))

    def _surplus(self, switch: Switch, line: Timeline, end: int) -> Generator[Any, Any, bytes]:
        """What our copy has received from the source beyond the log's end.

        Nothing once a fence is decided, and nothing on a timeline that a switch has left already.
        """
        now = yield from self._again(switch.number)
        active = self.run.promoted.get(won(self._known))
        rng = self.world.rng
        if now.last.kind is not Kind.ORDERED or rng.random() > 0.5 or (active and active.timeline is not line):
            return b""
        return line.bytes(end, rng.randint(end, max(end, line.end)))


class Doubter(_Clerk):
    """Somebody who thinks better of it, at a bad moment."""

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run, name)
        self.go(self._abandon(), lambda _: self.crash("is done"), lambda error: self.crash(f"gives up: {error}"))

    def _abandon(self) -> Generator[Any, Any, None]:
        newest = (yield from self._read()).newest
        while newest is not None and newest.last.kind is Kind.ORDERED and self.world.rng.random() < 0.8:
            yield Pause(0.3)
            newest = (yield from self._read()).newest
        if newest is not None and newest.under_way:
            newest = yield from self._propose(newest, Kind.ABANDONED)
            self.world.note(f"{self.name}: switch {newest.number} is {newest.last.kind.value}")


def promoted(seed: object, number: int, line: Timeline, end: int, kind: type[Primary] = Primary) -> Primary:
    """A PostgreSQL that recovered up to the log's end and took a timeline of its own there."""
    fork = line.whole(end)
    primary = kind(Timeline(f"{seed}/{line.number + 1}-switch{number}", line.number + 1, line, fork), fork)
    primary.switch = number
    return primary
